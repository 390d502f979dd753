"""Reads the messages in a directory with Python's own parser, which shares nothing with ours.

read_mail.py DIRECTORY: prints a JSON object from file name to subject, text part, HTML part, the charset of the text
part, the name and SHA-256 of every attachment, and the parser's complaints.
"""

import email
import email.policy
import hashlib
import json
import os
import sys


def main(directory):
    found = {}
    for name in sorted(os.listdir(directory)):
        with open(os.path.join(directory, name), "rb") as file:
            found[name] = read(file.read())
    json.dump(found, sys.stdout)


def read(bytes):
    message = email.message_from_bytes(bytes, policy=email.policy.default)
    text = message.get_body(("plain",))
    html = message.get_body(("html",))
    attachments = []
    defects = [str(defect) for part in message.walk() for defect in part.defects]
    for part in message.walk():
        if part.get_filename() is not None:
            content = part.get_payload(decode=True)
            attachments.append([part.get_filename(), hashlib.sha256(content).hexdigest()])
    return {
        "subject": message["Subject"],
        "to": message["To"],
        "text": text.get_content() if text else None,
        "charset": text.get_content_charset() if text else None,
        "html": html.get_content() if html else None,
        "attachments": attachments,
        "defects": defects,
        "encodings": sorted({str(part["Content-Transfer-Encoding"]) for part in message.walk()}),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
