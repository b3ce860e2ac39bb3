# make report       run a study and render it: STUDY=khan2015|learning_curve|ablation|failures|landmarks|synthetic|
#                   poses|constants|benchmark|scale|scribbles
#                   DATASET=demo|fasseg|lapa DATA_DIR=... N_TRAIN=... N_TEST=... N_WORKERS=... SEED=...
# make reports      run again the published studies whose code has changed, and write reports/index.html; ONLY=name
# make test         check modules, notebooks and studies
# make torture      kill commands and a study at random moments, and read 20,000 mutated inputs (an hour)
# make look         label faces in JupyterLab in a headless Chromium, and take screenshots of the reports
# make notebook     execute a notebook in place and clean it: NB=nbs/00_schema.ipynb
# make readme       README.md from nbs/index.ipynb
# make environment  .venv, which the other targets make too

PYTHON ?= python3
BIN := .venv/bin
QUIET := --quiet --disable-pip-version-check --constraint constraints.txt
READY := .venv/.ready
# OpenMP threads that wait without spinning: beside other work a training step of torch takes a tenth of the time,
# alone it takes a tenth more
export OMP_WAIT_POLICY ?= PASSIVE
# freed blocks of up to 32 MB stay with the process, at most 128 MB at the heap's end: `16_workers`
export MALLOC_MMAP_THRESHOLD_ ?= 33554432
export MALLOC_TRIM_THRESHOLD_ ?= 134217728
export MALLOC_ARENA_MAX ?= 1
STUDY ?= khan2015

DATASET ?= $(if $(filter learning_curve scale scribbles,$(STUDY)),lapa,demo)
FOLDER ?=
# without arguments a report takes minutes: 10 or 20 and 10 of the embedded faces, with fewer pixels to train on or at
# half their height; photographs are resized to the paper's 512. The study of rendered faces (synthetic) takes all
QUICK := $(filter demo-khan2015 demo-landmarks demo-benchmark,$(DATASET)-$(STUDY))
N_TRAIN ?= $(if $(QUICK),$(if $(filter khan2015,$(STUDY)),10,20))
N_TEST ?= $(if $(QUICK),10)
HEIGHT ?= $(if $(filter-out demo-khan2015,$(QUICK)),256)
FRACTION ?= $(if $(filter demo-khan2015,$(QUICK)),0.005)
# the embedded faces have landmarks, and small parts worth finding
FEATURES ?= $(if $(filter demo-benchmark,$(DATASET)-$(STUDY)),lapaseg)
CLASS_WEIGHT ?= $(if $(filter demo-landmarks,$(DATASET)-$(STUDY)),sqrt)
N_WORKERS ?= $(shell getconf _NPROCESSORS_ONLN)
STUDY_PREFIX := $(patsubst %,%-,$(filter-out khan2015,$(STUDY)))
OUT_DIR ?= reports/$(STUDY_PREFIX)$(DATASET)$(if $(FOLDER),-$(subst /,-,$(FOLDER)))
# name in the notebook = name here; texts with -r, so that papermill leaves them texts
TEXTS := data_dir=DATA_DIR folder=FOLDER test_split=TEST_SPLIT only=ONLY features=FEATURES models=MODELS \
         methods=METHODS counts=COUNTS recipes=RECIPES class_weight=CLASS_WEIGHT noise=NOISE \
         recipe_features=RECIPE_FEATURES on_error=ON_ERROR \
         real_dir=REAL_DIR landmarks=LANDMARKS without=WITHOUT probe=PROBE ship=SHIP ship_dir=SHIP_DIR \
         recipe=RECIPE more_dir=MORE_DIR scheduler=SCHEDULER schedulers=SCHEDULERS memory_limit=MEMORY_LIMIT \
         shares=SHARES regions=REGIONS overlaps=OVERLAPS strategies=STRATEGIES choice_recipe=CHOICE_RECIPE
NUMBERS := n_train=N_TRAIN n_test=N_TEST seed=SEED n_seeds=N_SEEDS height=HEIGHT fraction=FRACTION \
           per_class=PER_CLASS n_augmented=N_AUGMENTED n_trees=N_TREES step=STEP \
           recipe_fraction=RECIPE_FRACTION n_noise=N_NOISE n_probe=N_PROBE drawn=DRAWN \
           photographs=PHOTOGRAPHS n_folds=N_FOLDS render=RENDER draws=DRAWS steps=STEPS n_speed=N_SPEED \
           repeats=REPEATS n_compared=N_COMPARED share=SHARE region=REGION overlap=OVERLAP n_pool=N_POOL \
           n_chosen=N_CHOSEN choice_epochs=CHOICE_EPOCHS choice_draws=CHOICE_DRAWS complete=COMPLETE
parameter = $(word 1,$(subst =, ,$(1)))
setting = $($(word 2,$(subst =, ,$(1))))
given = $(foreach pair,$(2),$(if $(call setting,$(pair)), \
          $(1) $(call parameter,$(pair)) '$(call setting,$(pair))'))
PARAMETERS = -r dataset '$(DATASET)' -r out_dir '$(OUT_DIR)' -p n_workers $(N_WORKERS) \
             $(call given,-r,$(TEXTS)) $(call given,-p,$(NUMBERS))

.PHONY: report reports test torture look readme notebook environment
.DELETE_ON_ERROR:

PART = $(OUT_DIR)/$(STUDY).part
report: $(READY)
	@mkdir -p '$(OUT_DIR)'
	@$(BIN)/papermill --log-output --log-level WARNING --no-progress-bar nbs/studies/$(STUDY).ipynb \
	    '$(PART).ipynb' $(PARAMETERS) \
	  || { mv '$(PART).ipynb' '$(OUT_DIR)/$(STUDY).failed.ipynb' 2>/dev/null; \
	       echo "The study failed; the run so far is $(OUT_DIR)/$(STUDY).failed.ipynb. Earlier numbers are in" \
	            "results.json, or beside it under their date."; exit 1; }
	@$(BIN)/python .ci/to_html.py '$(PART).ipynb' '$(PART).html'
	@stamp=$$(date -u +%Y%m%d-%H%M%S); for kind in ipynb html; do \
	  if [ -e '$(OUT_DIR)'/$(STUDY).$$kind ]; then \
	    mv '$(OUT_DIR)'/$(STUDY).$$kind '$(OUT_DIR)'/$(STUDY).$$stamp.$$kind; \
	    echo "An earlier $(STUDY).$$kind is kept as $(STUDY).$$stamp.$$kind."; fi; \
	  mv '$(PART)'.$$kind '$(OUT_DIR)'/$(STUDY).$$kind; done
	@echo "The report is $(OUT_DIR)/$(STUDY).html; its numbers are in results.json beside it."

reports: $(READY)
	@$(BIN)/python .ci/reports.py $(ONLY)

test: $(READY)
	@$(BIN)/python -c 'import mitsuba, pyoidn' 2>/dev/null \
	  || $(BIN)/pip install $(QUIET) mitsuba pyoidn \
	  || echo 'The renderer could not be installed; its tests will be skipped.'
	@$(BIN)/python .ci/test.py

torture: $(READY)
	@$(BIN)/python .ci/torture.py

look: $(READY)
	@$(BIN)/python .ci/look.py

environment: $(READY)

notebook: $(READY)
	@$(BIN)/python .ci/execute.py $(NB)

readme: $(READY)
	@$(BIN)/python .ci/readme.py .

$(READY): pyproject.toml constraints.txt Makefile
	@command -v '$(PYTHON)' >/dev/null || { \
	  echo "$(PYTHON) was not found; faceseg needs Python 3.11 or newer: install it, or name one:" \
	       "make PYTHON=..."; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "faceseg needs Python 3.11 or newer, $(PYTHON) is $$('$(PYTHON)' -V 2>&1 | cut -d' ' -f2):" \
	       "name another with make PYTHON=python3.12"; exit 1; }
	@'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "Python's venv module is missing: install it (on Debian and Ubuntu: apt install python3-venv)"; \
	  exit 1; }
	@echo "Installing into .venv (a few minutes the first time)"
	@'$(PYTHON)' -m venv .venv
	@$(BIN)/pip install $(QUIET) --editable '.[notebooks,landmarks,deep,cluster,label]'
# the landmark packages bring two more builds of OpenCV, which write the same folder, cv2, and need libGL: the
# headless build is installed last
	@$(BIN)/pip install $(QUIET) --no-deps --force-reinstall opencv-python-headless
	@touch $(READY)
