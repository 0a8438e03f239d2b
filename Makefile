# `make demo` and `make test` need Python 3.11 and make, nothing else (PYTHON=python3.12 takes another one).
PYTHON ?= python3.11
VENV := .venv
PY := $(VENV)/bin/python
BUNDLE := $(PY) -m monai.bundle run
CONFIGS := bundles/pig_dbt/configs
# `make demo GENERATOR=maisi` shows the MAISI-style generator on latents; concat is the paper's, on pixels.
GENERATOR ?= concat
PRESET := $(if $(filter concat,$(GENERATOR)),demo,$(GENERATOR)_demo)
TRAIN_AUTOENCODER := --config_file "['$(CONFIGS)/train_autoencoder.yaml','$(CONFIGS)/presets/$(PRESET).yaml']"
TRAIN_GUIDER := --config_file "['$(CONFIGS)/train_guider.yaml','$(CONFIGS)/presets/$(PRESET).yaml']"
TRAIN_GENERATOR := --config_file "['$(CONFIGS)/train_generator.yaml','$(CONFIGS)/presets/$(PRESET).yaml']"
MODELS := bundles/pig_dbt/models

DEMO := runs/demo
# The demo trains the bundle's phantom weights further for a short while; FROM_SCRATCH=1 starts from fresh ones, and
# so does a generator on latents, of which the bundle has no weights.
ifneq ($(GENERATOR),concat)
LATENTS := --autoencoder_ckpt $(DEMO)/autoencoder
SHORT := $(LATENTS) --max_iterations 600
else ifdef FROM_SCRATCH
SHORT := --max_iterations 1000
else
SHORT := --max_iterations 300 --learning_rate 1.0e-4
FROM_GUIDER := --init_ckpt $(MODELS)/model_guider.pt
FROM_GENERATOR := --init_ckpt $(MODELS)/model_generator.pt
endif

.PHONY: help install demo study-smoke test test-monailabel lint format phantom-weights bundle clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 20

install: $(VENV)/.installed  ## .venv with everything the default install needs

$(VENV)/.installed: requirements.txt requirements-dev.txt pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt --editable .
	touch $@

demo: install  ## phantom DICOM → slices → short trainings → 32 pairs → runs/demo/report.html
	rm -rf $(DEMO)
	$(PY) data_prep/make_phantom.py --output $(DEMO)/phantom --patients 40 --seed 1
	$(PY) data_prep/dicom_to_slices.py --input $(DEMO)/phantom/dicom --masks $(DEMO)/phantom/masks \
		--output $(DEMO)/dataset
	$(if $(LATENTS),$(BUNDLE) training $(TRAIN_AUTOENCODER) --dataset_dir $(DEMO)/dataset \
		--output_dir $(DEMO)/autoencoder --max_iterations 800)
	$(BUNDLE) training $(TRAIN_GUIDER) --dataset_dir $(DEMO)/dataset --output_dir $(DEMO)/guider \
		$(SHORT) $(FROM_GUIDER)
	$(BUNDLE) training $(TRAIN_GENERATOR) --dataset_dir $(DEMO)/dataset --output_dir $(DEMO)/generator \
		--guider_ckpt $(DEMO)/guider/model_guider.pt $(SHORT) $(FROM_GENERATOR)
	$(BUNDLE) infer_pairs --config_file $(CONFIGS)/infer_pairs.yaml --output_dir $(DEMO)/pairs \
		--guider_ckpt $(DEMO)/guider/model_guider.pt --generator_ckpt $(DEMO)/generator/model_generator.pt \
		--num_pairs 32 --seed 0
	$(PY) -m pig_monai.report --run $(DEMO)

# Every method of the paper's tables on a small phantom at a tiny budget: it shows that the study runs, and no more.
SMOKE := runs/study-smoke
STUDY := $(VENV)/bin/snakemake -s workflows/study.smk --configfile workflows/study-smoke.yaml \
	--directory $(SMOKE) --config output=$(abspath $(SMOKE)) dataset_dir=$(abspath $(SMOKE)/dataset)
study-smoke: install  ## the whole study in small, on the phantom → runs/study-smoke/report.html; resumes
	test -f $(SMOKE)/phantom/phantom.json || $(PY) data_prep/make_phantom.py --output $(SMOKE)/phantom --patients 30 \
		--seed 2 --overwrite true
	$(PY) data_prep/dicom_to_slices.py --input $(SMOKE)/phantom/dicom --masks $(SMOKE)/phantom/masks \
		--output $(SMOKE)/dataset --size 64
	$(STUDY) --unlock --quiet all  # after kill -9; its working directory and lock are its own
	$(STUDY) --cores 2 --quiet rules

TESTS :=
test: install  ## all tests; TESTS=tests/data runs those
	$(PY) -m pytest $(TESTS)

ML_VENV := .venv-monailabel
ML_PY := $(ML_VENV)/bin/python

$(ML_VENV)/.installed: requirements-monailabel.txt requirements-dev.txt
	test -x $(ML_PY) || $(PYTHON) -m venv $(ML_VENV)
	$(ML_PY) -m pip install --quiet --disable-pip-version-check -r requirements-monailabel.txt \
		$$(grep '^pytest==' requirements-dev.txt)
	touch $@

test-monailabel: install $(ML_VENV)/.installed  ## a real MONAI Label server, on a folder and on Orthanc (8 GB)
	PIG_PYTHON=$(PY) $(ML_PY) -m pytest -c tests/monailabel/pytest.ini tests/monailabel

lint: install  ## ruff and mypy
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

format: install  ## let ruff rewrite what it can
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

# README.md's pictures and table of solvers are theirs.
WEIGHTS := runs/phantom-weights
phantom-weights: install  ## train the bundle's phantom weights anew (an hour on 2 cores); resumes
	test -f $(WEIGHTS)/phantom/phantom.json || $(PY) data_prep/make_phantom.py --output $(WEIGHTS)/phantom \
		--patients 120 --seed 0 --overwrite true
	$(PY) data_prep/dicom_to_slices.py --input $(WEIGHTS)/phantom/dicom --masks $(WEIGHTS)/phantom/masks \
		--output $(WEIGHTS)/dataset
	$(BUNDLE) training $(TRAIN_GUIDER) --dataset_dir $(WEIGHTS)/dataset --output_dir $(WEIGHTS)/guider \
		--fold -1 --max_iterations 2000
	$(BUNDLE) training $(TRAIN_GENERATOR) --dataset_dir $(WEIGHTS)/dataset --output_dir $(WEIGHTS)/generator \
		--fold -1 --max_iterations 2000
	$(PY) data_prep/dicom_to_slices.py --input $(WEIGHTS)/phantom/dicom --masks $(WEIGHTS)/phantom/masks \
		--output $(WEIGHTS)/segmenter_dataset --lesion_free 4
	test -f $(WEIGHTS)/segmenter/model.json || $(BUNDLE) training --config_file $(CONFIGS)/train.yaml --resume true \
		--dataset_dir $(WEIGHTS)/segmenter_dataset --output_dir $(WEIGHTS)/segmenter --image_size 128 --max_epochs 16
	cp $(WEIGHTS)/guider/model_guider.pt $(WEIGHTS)/generator/model_generator.pt $(MODELS)/
	cp $(WEIGHTS)/segmenter/model.pt $(WEIGHTS)/segmenter/model.json $(MODELS)/

VERSION := $(shell sed -n 's/^ *"version": "\(.*\)",/\1/p' $(CONFIGS)/metadata.json)
bundle:  ## dist/pig_dbt_v….zip, as MONAI's Model Zoo takes it
	rm -rf dist/pig_dbt && mkdir -p dist/pig_dbt
	cp -r bundles/pig_dbt/LICENSE bundles/pig_dbt/configs bundles/pig_dbt/docs dist/pig_dbt/
	mkdir dist/pig_dbt/models
	cp $(MODELS)/model.pt $(MODELS)/model.json $(MODELS)/model_guider.pt $(MODELS)/model_generator.pt dist/pig_dbt/models/
	cd dist && rm -f pig_dbt_v$(VERSION).zip && $(PYTHON) -m zipfile -c pig_dbt_v$(VERSION).zip pig_dbt && rm -r pig_dbt

clean:  ## remove the virtual environments and everything under runs/
	rm -rf $(VENV) $(ML_VENV) runs build *.egg-info
