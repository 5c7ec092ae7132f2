# Sourced: how to run an Erlang that was unpacked beside the system's and not into it. The script `erl` names the system's folders,
# so this does what it does.
ROOTDIR=$(cd "$PEERS_PREFIX/root/usr/lib/erlang" && pwd)
BINDIR=$(echo "$ROOTDIR"/erts-*/bin)
EMU=beam
PROGNAME=erl
export ROOTDIR BINDIR EMU PROGNAME
ERL=$BINDIR/erlexec
# Whoever is killed while it starts would leave a dump of megabytes in this folder.
export ERL_CRASH_DUMP=/dev/null
