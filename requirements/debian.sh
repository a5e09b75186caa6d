#!/bin/sh
# Headless rendering needs a few system libraries: install what is missing as root, else say the one command to type.
set -eu
list="$(dirname "$0")/debian.txt"
command -v dpkg-query >/dev/null || { echo "not Debian/Ubuntu: install the equivalents of: $(tr '\n' ' ' <"$list")"; exit 0; }
missing=""
while read -r package; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q "install ok installed" || missing="$missing $package"
done <"$list"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ]; then
    echo "installing system packages:$missing"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing >/dev/null
else
    echo "headless rendering needs system packages; type:"
    echo "    sudo apt-get install -y$missing"
    echo "(going on without them: camera observations and videos will not work)"
fi
