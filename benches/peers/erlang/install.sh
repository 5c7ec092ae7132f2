# Erlang by Debian's package, and the module compiled with it.
set -eu
. ../debian.sh
unpack "$PEERS_PREFIX" erlang-base >&2
. ./env.sh
"$ERL" -noshell -eval "{ok, ports} = compile:file(\"ports.erl\", [{outdir, \"$PEERS_PREFIX\"}]), halt()."
"$ERL" -noshell -eval 'io:format("Erlang/OTP ~s~n", [erlang:system_info(otp_release)]), halt().'
