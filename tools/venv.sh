#!/bin/sh
# Makes the virtual environment that the Makefile builds in: tools/venv.sh DIRECTORY PYTHON
#
# A bare Debian has Python without ensurepip (python3-venv), pip (python3-pip) and Python.h (python3-dev). None of them
# needs root: where one is missing, its package is fetched by apt-get into a directory of our own and unpacked into the
# environment. Where that cannot be done, the message names what to install.
set -eu

venv=$1
python=$2
packages=$venv/debian # what apt-get fetched, unpacked

die() {
    printf 'tools/venv.sh: %s\n' "$*" >&2
    exit 1
}

# Downloads the Debian package $1 as an ordinary user and unpacks it; the system's own state is only read.
fetch_debian() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    mkdir -p "$packages/lists/partial" "$packages/cache/archives/partial"
    (
        cd "$packages"
        printf 'Dir::State::lists "%s/lists";\nDir::Cache "%s/cache";\n' "$PWD" "$PWD" >apt.conf
        export APT_CONFIG="$PWD/apt.conf"
        { [ -e updated ] || { apt-get -qq update && touch updated; }; } &&
            apt-get -qq download "$1" && dpkg-deb -x "$1"_*.deb .
    ) >&2
}

install_pip() {
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    if "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m pip install --quiet --target "$site" pip
    elif fetch_debian python3-pip-whl; then
        wheel=$(ls "$packages"/usr/share/python-wheels/pip-*.whl)
        "$venv/bin/python" "$wheel/pip" install --quiet pip
    else
        die "$python has neither ensurepip nor pip: apt install python3-venv (or python3-pip)"
    fi
}

compiles() {
    echo '#include <Python.h>' | "$cc" -E -x c -I "$include" -I "$venv/include" - >/dev/null 2>&1
}

# distutils looks for headers in the environment's own include directory too, so they are laid there.
install_headers() {
    echo '#include <stdlib.h>' | "$cc" -E -x c - >/dev/null 2>&1 || die "no C library headers: apt install libc6-dev"
    fetch_debian "libpython$version-dev" || die "no Python.h for $python: apt install python3-dev"
    cp -R "$packages/usr/include/python$version/." "$packages"/usr/include/*-linux-gnu* "$venv/include/"
    compiles || die "the fetched Python.h does not compile: apt install python3-dev"
}

command -v "$python" >/dev/null || die "no $python: apt install python3, or say make PYTHON=/path/to/python3"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || die "$python does not run, or is older than Python 3.10"

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    if "$python" -c 'import ensurepip' 2>/dev/null; then
        "$python" -m venv --clear "$venv"
    else
        "$python" -m venv --clear --without-pip "$venv"
        install_pip
    fi
fi

version=$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
include=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
cc=${CC:-$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_config_var("CC").split()[0])')}
command -v "$cc" >/dev/null || die "no C compiler ($cc): apt install gcc, or set CC"
compiles || install_headers
rm -rf "$packages"
