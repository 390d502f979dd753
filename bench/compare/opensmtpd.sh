packages opensmtpd
private
user opensmtpd 4104
user opensmtpq 4105
mkdir -p /var/lib/opensmtpd/empty /var/spool/smtpd
chmod 711 /var/spool/smtpd
echo 'lookup file' >/etc/resolv.conf
cat >/etc/smtpd.conf <<END
smtp limit max-mails 100000
smtp limit max-rcpt 1000
mta max-deferred 1000000
mta limit max-conn-per-host $CONNECTIONS
mta limit max-conn-per-route $CONNECTIONS
mta limit max-conn-per-source 1000
mta limit max-conn-per-connector $CONNECTIONS
mta limit max-conn-per-relay $CONNECTIONS
mta limit max-conn-per-domain $CONNECTIONS
mta limit conn-delay-host 0
mta limit conn-delay-source 0
mta limit conn-delay-connector 0
mta limit conn-delay-relay 0
mta limit conn-delay-domain 0
mta limit session-mail-max 1000000
scheduler limit max-inflight 20000
listen on 127.0.0.1 port $IN hostname mta.test
END
# One relay keeps to few connections whatever its limits say, so each domain has a loopback address.
width=$((${#DOMAINS} > 3 ? ${#DOMAINS} : 3))
for ((i = 0; i < DOMAINS; i++)); do
  printf 'action o%d relay host "smtp+notls://127.0.%d.%d:%d"\nmatch from any for domain "d%0*d.test" action o%d\n' \
    "$i" $((1 + i / 200 % 200)) $((1 + i % 200)) "$OUT" "$width" "$i" "$i"
done >>/etc/smtpd.conf
exec smtpd -d -f /etc/smtpd.conf
