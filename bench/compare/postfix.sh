packages postfix
private
user postfix 4101
user postdrop 4102
mkdir -p /etc/postfix "$DIR/queue" "$DIR/data"
for file in postfix-files dynamicmaps.cf main.cf.proto master.cf.proto; do
  for from in "$PACKAGES/postfix/etc/postfix/$file" "/usr/share/postfix/$file"; do
    if [ ! -e "/etc/postfix/$file" ] && [ -e "$from" ]; then cp "$from" /etc/postfix/; fi
  done
done
[ -d "$PACKAGES/postfix/etc/postfix" ] && cp -an "$PACKAGES/postfix/etc/postfix/." /etc/postfix/
chown postfix "$DIR/data"
cat >/etc/postfix/main.cf <<END
compatibility_level = 3.6
queue_directory = $DIR/queue
data_directory = $DIR/data
daemon_directory = /usr/lib/postfix/sbin
shlib_directory = /usr/lib/postfix
meta_directory = /etc/postfix
mail_owner = postfix
setgid_group = postdrop
myhostname = mta.test
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
disable_dns_lookups = yes
smtp_host_lookup = native
relayhost = [127.0.0.1]:$OUT
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
smtpd_client_event_limit_exceptions = 127.0.0.0/8
alias_maps =
alias_database =
local_recipient_maps =
in_flow_delay = 0s
default_process_limit = $CONNECTIONS
default_destination_concurrency_limit = $CONNECTIONS
initial_destination_concurrency = $CONNECTIONS
smtp_destination_concurrency_limit = $CONNECTIONS
qmgr_message_active_limit = 100000
qmgr_message_recipient_limit = 100000
smtp_connection_cache_on_demand = yes
smtp_connection_cache_destinations = [127.0.0.1]:$OUT
smtp_connection_reuse_time_limit = 300s
maillog_file = /var/log/mail.log
END
cat >/etc/postfix/master.cf <<END
$IN        inet  n - n - -     smtpd
pickup     unix  n - n 60 1    pickup
cleanup    unix  n - n - 0     cleanup
qmgr       unix  n - n 300 1   qmgr
rewrite    unix  - - n - -     trivial-rewrite
bounce     unix  - - n - 0     bounce
defer      unix  - - n - 0     bounce
trace      unix  - - n - 0     bounce
verify     unix  - - n - 1     verify
flush      unix  n - n 1000? 0 flush
proxymap   unix  - - n - -     proxymap
smtp       unix  - - n - -     smtp
relay      unix  - - n - -     smtp
showq      unix  n - n - -     showq
error      unix  - - n - -     error
retry      unix  - - n - -     error
discard    unix  - - n - -     discard
anvil      unix  - - n - 1     anvil
scache     unix  - - n - 1     scache
tlsmgr     unix  - - n 1000? 1 tlsmgr
postlog    unix-dgram n - n - 1 postlogd
END
postfix -c /etc/postfix check
exec /usr/lib/postfix/sbin/master -c /etc/postfix -d
