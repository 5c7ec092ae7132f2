# Sourced by the peers that come as Debian packages: `unpack PREFIX PACKAGE...` fetches them with the ordinary client and unpacks
# them into a folder of our own. Nothing is installed system-wide and no maintainer script runs.
unpack() {
    prefix=$1
    shift
    mkdir -p "$prefix/debs"
    # An old list names versions that are gone; whoever may not update it tries with what there is.
    (cd "$prefix/debs" && apt-get download "$@") || { apt-get update && (cd "$prefix/debs" && apt-get download "$@"); }
    for package in "$prefix"/debs/*.deb; do
        dpkg -x "$package" "$prefix/root"
    done
    rm -r "$prefix/debs"
}
