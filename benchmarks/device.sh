#!/usr/bin/env bash
# benchmarks.gpu on a CUDA machine that reaches no package registry.
#
#   benchmarks/device.sh               prepare: make build/device/device.tar.gz (the files that git tracks, and wheels of
#                                      what is missing there) and print the one command to run there
#   benchmarks/device.sh run DIR [..]  there: install the wheels, run tests and benchmarks.gpu, write results to DIR;
#                                      further words go to benchmarks.gpu
#   benchmarks/device.sh rehearse      prepare, and run that command on a CPU with that machine's versions, a small model
#   benchmarks/device.sh take DIR      record in benchmarks/results.json, and in docs/, what came back
#
# PYTHON is what wheels are fetched with, PYTHON_THERE (python3.12) makes the rehearsal's environment, which is kept in
# VENV_THERE; BUILD is where all this is written (build/device), and MOST_MIB (64) how much can be brought there.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${BUILD:-$root/build/device}
archive=$build/device.tar.gz
most_mib=${MOST_MIB:-64}
minutes=8   # of the printed command
seconds=430 # of benchmarks.gpu; the rest is for unpacking, installing, and ending

prepare() {
    local stage=$build/stage/visplay-device platform
    local there=(--only-binary=:all: --python-version 3.12 --implementation cp)
    for platform in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014; do
        there+=(--platform "${platform}_x86_64")
    done
    rm -rf "$build/stage"
    mkdir -p "$stage/checkout" "$stage/wheels"
    "${PYTHON:-python3}" -m pip download -q --no-deps "${there[@]}" -d "$stage/wheels" -r "$root/benchmarks/device/wheels.txt"
    (cd "$root" && git ls-files -z | tar --null --files-from=- -cf -) | tar -xf - -C "$stage/checkout"
    tar -czf "$archive" -C "$build/stage" visplay-device
    rm -rf "$build/stage"
    if (($(size_mib) >= most_mib)); then
        echo "$archive: $(size_mib) MiB, and fewer than $most_mib can be brought" >&2
        exit 1
    fi
    echo "Bring $archive ($(size_mib) MiB, $(git -C "$root" describe --always --dirty)), and run there, in its directory:"
    echo
    there_command device.tar.gz "\${OUT:-results}"
}

size_mib() {
    echo $(($(wc -c < "$archive") / 2**20 + 1))
}

there_command() { # archive, directory of results, further words of benchmarks.gpu
    local run="timeout -k 10 $((60 * minutes)) bash /tmp/visplay-device/checkout/benchmarks/device.sh run"
    echo "tar -xzf $1 -C /tmp && $run $2${3:+ $3}"
}

run() { # directory of results, further words of benchmarks.gpu
    local out site=$root/../site
    out=$(mkdir -p "$1" && cd "$1" && pwd)
    shift
    # Not a venv: one made with the Python of another venv does not see that one's packages.
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" "$root"/../wheels/*.whl
    cd "$root"
    export PYTHONPATH=$root:$site PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
    python3 -m benchmarks.gpu --tests --seconds "$seconds" --write "$out/results.json" "$@" 2>&1 | tee "$out/gpu.log"
}

rehearse() {
    local venv=${VENV_THERE:-$build/venv} out=$build/rehearsal words="--device cpu --model 8m --rounds 1 --cubes 256"
    prepare
    if [ ! -x "$venv/bin/python3" ]; then
        "${PYTHON_THERE:-python3.12}" -m venv "$venv"
        "$venv/bin/python3" -m pip install -q -r "$root/benchmarks/device/machine.txt"
    fi
    words+=" --prompts 2 --group 2 --tokens 8 --votes 2 --step-prompts 4 --voted 1"
    rm -rf "$out" /tmp/visplay-device
    PATH=$venv/bin:$PATH bash -c "$(there_command "$archive" "$out" "$words")"
    ls -l "$out"
}

take() { # directory of results
    (cd "$root" && "${PYTHON:-python3}" -m benchmarks.report --take "$1/results.json")
}

main() {
    local mode=${1:-prepare}
    case $mode in
        prepare | rehearse) "$mode" ;;
        run | take)
            [ $# -gt 1 ] || { echo "$mode: give the directory of the results" >&2; exit 2; }
            "$@"
            ;;
        *)
            echo "$mode: no mode; prepare, rehearse, run DIR, or take DIR" >&2
            exit 2
            ;;
    esac
}

main "$@"
