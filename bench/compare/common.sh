# Runs one mail server of another make for `hikyaku-bench compare`, in mount and PID namespaces of its
# own: what it thinks is /etc, /var/spool and /var/log are folders of this run, and every process of it
# ends with the namespace. Set by the harness: DIR (of this run), PACKAGES (unpacked packages),
# IN (port to listen on), OUT (port of the sink, on every loopback address), CONNECTIONS (to the sink),
# DOMAINS (of recipients: d000.test and so on).
set -eu

fail() { echo "$*" >&2; exit 1; }

# Lays unpacked packages over /usr. One that is installed needs no unpacking.
packages() {
  local lower=/usr name
  for name in "$@"; do
    if [ -d "$PACKAGES/$name/usr" ]; then lower="$PACKAGES/$name/usr:$lower"; fi
  done
  [ "$lower" = /usr ] || mount -t overlay overlay -o "lowerdir=$lower" /usr
}

private() {
  mkdir -p "$DIR"/etc "$DIR"/etc.work "$DIR"/run "$DIR"/spool "$DIR"/log "$DIR"/lib
  mount -t overlay overlay -o "lowerdir=/etc,upperdir=$DIR/etc,workdir=$DIR/etc.work" /etc
  mount --bind "$DIR/run" /run
  mount --bind "$DIR/spool" /var/spool
  mount --bind "$DIR/log" /var/log
  mount --bind "$DIR/lib" /var/lib
  echo '127.0.0.1 localhost mta.test' >/etc/hosts
  printf 'hosts: files\npasswd: files\ngroup: files\nservices: files\n' >/etc/nsswitch.conf
}

# user NAME ID: known inside only.
user() {
  grep -q "^$1:" /etc/passwd || echo "$1:x:$2:$2::/nonexistent:/usr/sbin/nologin" >>/etc/passwd
  grep -q "^$1:" /etc/group || echo "$1:x:$2:" >>/etc/group
}
