set -eu
. ../debian.sh
unpack "$PEERS_PREFIX" nginx
"$PEERS_PREFIX/root/usr/sbin/nginx" -v 2>&1
