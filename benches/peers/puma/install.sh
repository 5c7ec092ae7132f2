# Debian's Ruby and Puma: the registry of gems is not needed for them.
set -eu
. ../debian.sh
unpack "$PEERS_PREFIX" puma ruby3.1 libruby3.1 ruby-nio4r rubygems-integration ruby-rubygems ruby-rack >&2
. ./env.sh
"$RUBY" --version
"$RUBY" "$PUMA" --version
