set -eu
cd "$(dirname "$0")"
. ./env.sh
exec "$RUBY" "$PUMA" --quiet --config puma.rb config.ru
