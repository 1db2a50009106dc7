# Every gate that a change must pass; the same as `.ci/run`.
check:
    .ci/run

# All tests.
test:
    cargo test --workspace --locked

# What matching, selectors, probes and the audit log cost on this machine, as ratios of one run; `just bench --help` for more.
bench *arguments:
    cargo bench --locked -p sotto-tests --bench scale -- {{ arguments }}

# One broker and three nodes on this machine, once through; `just quickstart --help` for more.
quickstart *arguments="--once":
    deploy/quickstart.sh {{ arguments }}

# Formats the Rust sources.
format:
    cargo fmt --all

# Writes the sample lists again; their bytes depend on the generator alone.
samples:
    python3 deploy/sample/generate.py
