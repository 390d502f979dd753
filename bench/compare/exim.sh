# As Exim comes: a delivery process for each message, at once.
packages exim4-daemon-light exim4-base
private
user Debian-exim 4103
mkdir -p /etc/exim4 /var/spool/exim4 /var/log/exim4 /run/exim4
chown -R Debian-exim:Debian-exim /var/spool/exim4 /var/log/exim4 /run/exim4
cat >/etc/exim4/exim4.conf <<END
primary_hostname = mta.test
exim_user = Debian-exim
exim_group = Debian-exim
spool_directory = /var/spool/exim4
log_file_path = /var/log/exim4/%slog
pid_file_path = /run/exim4/exim.pid
local_interfaces = 127.0.0.1
daemon_smtp_ports = $IN
disable_ipv6 = true
host_lookup =
rfc1413_query_timeout = 0s
acl_smtp_rcpt = accept
acl_smtp_data = accept
smtp_accept_max = 200
smtp_accept_max_per_connection = 0
smtp_accept_queue = 0
smtp_accept_queue_per_connection = 0
split_spool_directory = true
pipelining_advertise_hosts = *
tls_advertise_hosts =
keep_environment =
begin routers
all:
  driver = manualroute
  route_data = 127.0.0.1
  transport = out
  self = send
begin transports
out:
  driver = smtp
  port = $OUT
  allow_localhost
  connection_max_messages = 500
  hosts_avoid_tls = *
  hosts_try_dane =
begin retry
* * F,2h,15m
END
exec exim4 -bdf
