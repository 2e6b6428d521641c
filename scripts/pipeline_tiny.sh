#!/usr/bin/env bash
# Every experiment in order on the stories that ship with the repository: minutes on a CPU.
# The figures mean nothing; that all of it runs does. Writes to out/tiny (or the folder named).
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-out/tiny}
python=${PYTHON:-.venv/bin/python}
recipes=scripts/recipes/tiny
results=$out/results
rm -rf "$out"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} HF_HUB_OFFLINE=1 # tiny models: threads only wait

run() {
  echo "== $*"
  "$python" -m "scripts.$@"
}

run unpack_stories --out "$out/texts"
run build_corpus "$out/texts" --out "$out/corpus"
split=("$out/corpus" --split "$out/texts/split.json")
run count_words "$out/corpus" --author classic \
  --texts ml/data/sample_stories.jsonl --out "$results/frequency.json"
run train_tokenizer "${split[@]}" --recipe $recipes/tokenizer_sweep.json --vocabulary 600 \
  --out "$out/tokenizer" --sweep --work "$out/sweep" --result "$results/tokenizer_sweep.json"
run train_baselines "${split[@]}" --recipe $recipes/baselines.json --work "$out/baselines" \
  --out "$results/baselines.json"
run search_baselines "${split[@]}" --recipe $recipes/search.json --work "$out/search" \
  --out "$results/search.json"
run study_mini "${split[@]}" --study $recipes/scaling.json --work "$out/scaling" \
  --out "$results/scaling.json"
run study_mini "${split[@]}" --study $recipes/ablations.json --work "$out/ablations" \
  --out "$results/ablations.json"
run autopsy "${split[@]}" --author classic --steps 20 --out "$results/autopsy.json"
run train_mini "${split[@]}" --recipe $recipes/mini.json --work "$out/mini" --out "$out/model" \
  --result "$results/mini_runs.json"
run score_texts ml/data/sample_stories.jsonl --corpus "${split[@]}" --authors "$out/authors" \
  --report "$results/authors.json" --out "$out/scored.jsonl"
run evaluate "$out/model" "$out"/baselines/char_GRU --corpus "${split[@]}" \
  --authors "$out/authors" --openings 5 --out "$results/evaluate.json"
run generate_synthetic --dry-run --out "$out/synthetic.jsonl"
run plot --results "$results" --out "$out/plots"
echo "== all of it ran: $out"
