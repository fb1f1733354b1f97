# Sourced by scripts/run and scripts/test: leaves a complete virtual environment in .venv.
# ready_venv EXTRA: installs what setup.cfg names with the tested pins; again only when one of them has changed.

supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; }

newest_python() {
    local name
    for name in ${PYTHON:-python3.14 python3.13 python3.12 python3.11 python3 python}; do
        if command -v "$name" >/dev/null && supported "$name"; then
            command -v "$name"
            return
        fi
    done
    echo "ztsnr needs Python 3.11 to 3.14, and none of ${PYTHON:-python3.14 ... python3.11, python3} is one." >&2
    echo "Install one (Debian, Ubuntu: apt install python3 python3-venv), or name it: PYTHON=/path/to/python $0" >&2
    return 1
}

create_venv() {
    local python=$1
    echo "ztsnr: creating .venv with $python" >&2
    if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
        echo "$python cannot make virtual environments. Debian, Ubuntu: apt install python3-venv" >&2
        return 1
    fi
    "$python" -m venv .venv
}

ready_venv() {
    local extra=$1 pip=.venv/bin/pip pins=scripts/constraints.txt want stamp
    want=$(cat setup.cfg pyproject.toml "$pins" | cksum)
    for stamp in ".venv/.installed-$extra" ".venv/.installed-[test]"; do # [test] holds all of the others
        [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && return
    done
    if ! { [ -x .venv/bin/python ] && supported .venv/bin/python; }; then
        local python
        python=$(newest_python) || return 1
        rm -rf .venv
        create_venv "$python" || return 1
    fi
    echo "ztsnr: installing the tested versions of $pins (a few minutes, once)" >&2
    # torch first and pinned: whatever needs it then takes the build that pip's configuration gives.
    "$pip" install --quiet "$(grep '^torch==' "$pins")" -c "$pins" || return 1
    "$pip" install --quiet -c "$pins" --editable ".$extra" || return 1
    echo "$want" >".venv/.installed-$extra"
}
