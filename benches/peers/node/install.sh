# Node itself is what the machine has; its version is in the table.
set -eu
node --version
