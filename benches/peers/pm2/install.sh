set -eu
cp package.json "$PEERS_PREFIX/"
npm --prefix "$PEERS_PREFIX" install --no-audit --no-fund --loglevel=error >&2
node --version
sed -n 's/.*"version": "\(.*\)".*/PM2 \1/p' "$PEERS_PREFIX/node_modules/pm2/package.json"
