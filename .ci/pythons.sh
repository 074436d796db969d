# Finds the Pythons that the package supports; to be sourced in the folder of setup.cfg.

# The supported versions, one a line, oldest first: those that setup.cfg declares.
supported_versions() {
    sed -n 's/^ *Programming Language :: Python :: \(3\.[0-9][0-9]*\)$/\1/p' setup.cfg | sort -V
}

# Whether a command is a Python of this version that can make virtual environments. A shim of pyenv may be on PATH for
# a version that is not in use there, so the command itself has to say its version.
is_python() {
    [ "$("$1" -c 'import ensurepip, sys, venv; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = "$2" ]
}

# Prints a Python of this version, found on PATH or in pyenv; fails where there is none.
find_python() {
    local candidate
    while IFS= read -r candidate; do
        if is_python "$candidate" "$1"; then
            command -v "$candidate"
            return 0
        fi
    done < <(printf '%s\n' "python$1" python3 && pyenv_pythons "$1")
    return 1
}

# Prints the Pythons of this version in pyenv, the newest first.
pyenv_pythons() {
    local root
    command -v pyenv >/dev/null && root=$(pyenv root) || return 0
    find "$root/versions" -maxdepth 1 -name "$1.*" 2>/dev/null | sort -rV | sed 's|$|/bin/python|'
}

# Prints "VERSION PATH" for each supported version that is found, oldest first.
found_pythons() {
    local version path
    while IFS= read -r version; do
        if path=$(find_python "$version"); then
            printf '%s %s\n' "$version" "$path"
        fi
    done < <(supported_versions)
}
