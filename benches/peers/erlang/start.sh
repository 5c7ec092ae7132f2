set -eu
cd "$(dirname "$0")"
. ./env.sh
exec "$ERL" -noshell -noinput -pa "$PEERS_PREFIX" -eval 'ports:main().'
