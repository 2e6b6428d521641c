#!/usr/bin/env bash
# The real experiment, in order: hours on two cores. CORPUS is a folder of texts with SOURCES.tsv.
#   scripts/pipeline.sh CORPUS
# Every step goes on where it was interrupted. What it measures stands in docs/experiments/results.
set -euo pipefail
corpus=$(realpath "${1:?name the corpus folder}")
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}

run() {
  echo "== $*"
  "$python" -m "scripts.$@"
}

# Chapter 3: data and tokenizer
run count_words "$corpus"
run score_texts ml/data/sample_stories.jsonl --corpus "$corpus" --out out/sample_stories.scored.jsonl
run train_tokenizer "$corpus" --sweep
# Chapters 1 to 3: the naive models, the search, what went wrong in it
run search_baselines "$corpus"
run train_baselines "$corpus" --recipe out/search/best.json
run train_baselines "$corpus" --recipe scripts/recipes/ngrams_all_prose.json
run autopsy "$corpus"
# pushkin-mini: which size, which settings, then six stages and two means
run study_mini "$corpus" --study scripts/recipes/scaling.json
run study_mini "$corpus" --study scripts/recipes/ablations.json
run train_mini "$corpus" --recipe scripts/recipes/pushkin_mini.json --work out/mini --out out/first
run train_mini "$corpus" --recipe scripts/recipes/pushkin_mini_trunk.json --work out/trunk \
  --out out/trunk/model
run train_mini "$corpus" --recipe scripts/recipes/pushkin_mini_cooldown.json --work out/cooldown \
  --out out/cooldown/model
run train_mini "$corpus" --recipe scripts/recipes/pushkin_mini_last.json --work out/last \
  --out out/last/model
run train_mini "$corpus" --recipe scripts/recipes/pushkin_mini_again.json --work out/again \
  --out out/again/model
run average_models out/last/model out/again/model --weights 0.5 0.5 --corpus "$corpus" \
  --out out/averaged/model
run train_mini "$corpus" --recipe scripts/recipes/pushkin_mini_style.json --work out/style \
  --out out/style/model --result docs/experiments/results/mini_runs.json
run average_models out/last/model out/style/model --weights 0.5 0.5 --corpus "$corpus" \
  --out ml/pretrained/pushkin-mini
run train_baselines "$corpus" --mini ml/pretrained/pushkin-mini
# Chapter 5: how many passes are too many, on a model that has not read Pushkin
run train_mini "$corpus" --recipe scripts/recipes/pushkin_mini_century.json --work out/century \
  --out out/century/model
run study_finetune "$corpus" --base out/century/model
# What they write, how fast it all is, and the pictures
run evaluate ml/pretrained/pushkin-mini out/baselines/char_GRU out/baselines/char_LSTM \
  out/baselines/word_LSTM --corpus "$corpus"
run bench_training "$corpus"
run bench_corpus "$corpus"
run plot
