set -eu
python3 -m venv "$PEERS_PREFIX/venv"
"$PEERS_PREFIX/venv/bin/pip" install --quiet --disable-pip-version-check --requirement requirements.txt
"$PEERS_PREFIX/venv/bin/pip" list --format=freeze | grep -i '^granian=='
"$PEERS_PREFIX/venv/bin/python" --version
