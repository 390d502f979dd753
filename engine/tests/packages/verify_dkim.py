"""Verifies every DKIM signature of the messages in a directory with dkimpy.

verify_dkim.py DIRECTORY RECORDS: RECORDS is a JSON object from selector to key record, the same for
every domain. Prints a JSON object from file name to a list with one entry per signature: "ok", or
what was wrong.
"""

import json
import os
import re
import sys

import dkim


def main(directory, records):
    records = {selector.encode(): record.encode() for selector, record in json.loads(records).items()}

    def lookup(name, timeout=5):
        return records.get(name.split(b".", 1)[0])

    results = {}
    for name in sorted(os.listdir(directory)):
        with open(os.path.join(directory, name), "rb") as file:
            message = file.read()
        header = re.split(rb"\r\n\r\n", message, maxsplit=1)[0]
        count = len(re.findall(rb"(?im)^dkim-signature:", header))
        results[name] = [verify(message, index, lookup) for index in range(count)]
    json.dump(results, sys.stdout)


def verify(message, index, lookup):
    try:
        good = dkim.DKIM(message).verify(idx=index, dnsfunc=lookup)
        return "ok" if good else "does not verify"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main(*sys.argv[1:])
