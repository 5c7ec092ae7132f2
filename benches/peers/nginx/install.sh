set -eu
. ../debian.sh
unpack "$PEERS_PREFIX" nginx >&2
"$PEERS_PREFIX/root/usr/sbin/nginx" -v 2>&1
