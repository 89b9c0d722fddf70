# ttmd and ttm.  `make help` lists the targets.
#
#   VARIANT  release | asan | tsan | fuzz: flags below, objects in $(B)/$(VARIANT)/
#   B        build root, default build
#   CC       gcc (default) or clang; fuzz needs clang
#   MPI      1: ttm train runs on the processes of an MPI job; objects in $(B)/$(VARIANT)-mpi/

B       ?= build
VARIANT ?= release
PREFIX  ?= /usr/local
DESTDIR ?=
MODEL   ?=
ARGS    ?=
T       ?= 60
ifeq ($(origin CC),default)
CC      := gcc
endif
ifeq ($(VARIANT),fuzz)
CC      := $(firstword $(shell command -v clang clang-16 clang-15 clang-14 2>/dev/null) clang)
endif

MPI     ?= 0
O       := $(B)/$(VARIANT)$(if $(filter 1,$(MPI)),-mpi)
PKGS    := libmicrohttpd jansson openblas libutf8proc gnutls $(if $(filter 1,$(MPI)),ompi-c)
TESTPKG := check
APT     := gcc make pkg-config libmicrohttpd-dev libjansson-dev libopenblas-dev libutf8proc-dev libgnutls28-dev check \
           $(if $(filter 1,$(MPI)),libopenmpi-dev openmpi-bin)
APTLINT := git clang clang-format clang-tidy cppcheck libclang-rt-14-dev
# What looks at the files of docker/ comes with daemons that the next boot of a machine would start: CI has them
# installed, elsewhere lint says SKIPPED for what is not there.
APTCI   := haproxy prometheus systemd
ARCH    := $(shell uname -m)
GIT     := $(shell git describe --always --dirty 2>/dev/null)

WARN    := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes \
           -Wpointer-arith -Wundef -Wvla -Werror
SAN_release :=
SAN_asan    := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
SAN_tsan    := -fsanitize=thread -fno-omit-frame-pointer
SAN_fuzz    := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -DFUZZING
OPT_release := -O2
OPT_asan    := -O1
OPT_tsan    := -O1
OPT_fuzz    := -O1
CPPFLAGS    += -I. -D_GNU_SOURCE $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
# Sanitizers' reports need lines, not variables; compiling is a tenth to a third faster without them.
CFLAGS      ?= $(if $(filter release,$(VARIANT)),-g,-g1)
ALL_CFLAGS   = -std=c11 $(OPT_$(VARIANT)) $(CFLAGS) -pthread -fno-strict-aliasing $(WARN) $(SAN_$(VARIANT)) -MMD -MP
LDLIBS      += $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lm -pthread
TESTLIBS    := $(shell pkg-config --libs $(TESTPKG) 2>/dev/null)

# One instruction set per file: each gets its own flags and only the matching machine builds it.
ISA_SUFFIX_x86_64  := avx2 avxvnni avx512 avx512vnni amx
ISA_SUFFIX_aarch64 := neon neondot
ISA_avx2    := -mavx2 -mfma -mf16c
ISA_avx512  := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c -mprefer-vector-width=512
ISA_avxvnni := -mavx2 -mavxvnni
ISA_avx512vnni := $(ISA_avx512) -mavx512vnni
ISA_amx     := $(ISA_avx512vnni) -mamx-tile -mamx-int8
ISA_neon    :=
ISA_neondot := -march=armv8.2-a+dotprod
isa_files   = $(foreach s,$(1),$(wildcard engine/*/*_$(s).c))
ISA_ALL     := $(call isa_files,$(ISA_SUFFIX_x86_64) $(ISA_SUFFIX_aarch64))
ISA_OURS    := $(call isa_files,$(ISA_SUFFIX_$(ARCH)))

ENGINE_C := $(filter-out $(ISA_ALL),$(wildcard engine/*/*.c)) $(ISA_OURS)
CONFIG_C := $(wildcard config/*.c)
SERVER_C := $(wildcard server/*.c)
MODELS_C := $(filter-out models/train/parallel_$(if $(filter 1,$(MPI)),one,mpi).c,$(wildcard models/*.c models/*/*.c))
SUPPORT_C:= $(wildcard tests/support/*.c)
# What these test has one thread, or they measure: ThreadSanitizer would only take its time.
ALONE    := $(addprefix engine/base/test_,cpu dtype err file mem rng utf8) \
            $(addprefix engine/gpt2/test_,added bpe gpt2_config nano_sort pretokenizer safetensors safetensors_files \
              tokenizer tokenizer_files tokenizer_vectors tokenizer_write) \
            $(addprefix engine/kernels/test_,attend int8 machine pack panel rows) \
            $(addprefix engine/run/test_,draft gate kv logprobs prefix sampler) \
            $(addprefix engine/ttm/test_,rates_file shape shapes_front) \
            $(addprefix models/test_,atomic_file bench checkpoint inspect layers options plot shapes) \
            $(addprefix models/experiments/test_,ngram overlap scripts) \
            $(addprefix server/test_,keys units) config/test_config models/train/test_state
TEST_C   := $(sort $(shell find tests -name 'test_*.c' -not -path 'tests/support/*' 2>/dev/null))
SUITES    = $(filter-out $(if $(filter tsan,$(VARIANT)),$(ALONE)),$(patsubst tests/%.c,%,$(TEST_C)))
FUZZ_C   := $(sort $(wildcard tests/fuzz/fuzz_*.c))
obj       = $(patsubst %.c,$(O)/obj/%.o,$(1))

LIBS     := $(O)/libserver.a $(O)/libmodels.a $(O)/libconfig.a $(O)/libengine.a
TESTS     = $(addprefix $(O)/tests/,$(SUITES))
BENCHES  := $(patsubst tests/bench/%.c,$(O)/bench/%,$(wildcard tests/bench/*.c))
FUZZERS  := $(patsubst tests/fuzz/%.c,$(O)/fuzz/%,$(FUZZ_C))
BINS     := $(O)/ttmd $(O)/ttm

.PHONY: all help deps lint-deps check-deps serve test check asan tsan fuzz bench e2e replicas cross lint format readme install clean tests
.SECONDARY:
# What a recipe began and could not end is no file: `ttmd --help-man > $@` makes an empty one first.
.DELETE_ON_ERROR:

## all: build ttmd and ttm into build/release (says which package is missing)
all: check-deps $(BINS)

## help: this list
help:
	@echo "make targets:"; sed -n 's/^## \([a-z0-9-]*\): /  \1|/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-12s %s\n", $$1, $$2}'
	@echo "variables: B=build VARIANT=release|asan|tsan CC=gcc|clang MPI=0|1 MODEL=dir ARGS='ttmd flags' T=seconds PREFIX DESTDIR"

check-deps:
	@command -v pkg-config >/dev/null || { echo "missing package: pkg-config (run: make deps)" >&2; exit 1; }
	@ok=1; for p in $(PKGS); do pkg-config --exists $$p || { ok=0; \
	  case $$p in jansson) d=libjansson-dev;; openblas) d=libopenblas-dev;; gnutls) d=libgnutls28-dev;; ompi-c) d=libopenmpi-dev;; *) d=$$p-dev;; esac; \
	  echo "missing package: $$d (run: make deps)" >&2; }; done; [ $$ok = 1 ]

## deps: install the packages that building and testing need (apt-get, with sudo when not root)
deps:
	@tests/tools/apt-install $(APT)
lint-deps:
	@tests/tools/apt-install $(APT) $(APTLINT) $(if $(filter-out 0 false,$(CI)),$(APTCI))

## serve: install packages, build, start the daemon (MODEL=dir chooses the model, ARGS its flags)
serve: deps
	@$(MAKE) --no-print-directory all
	@tests/tools/serve "$(O)/ttmd" "$(MODEL)" $(ARGS)

## test: install packages, build, run all tests
test: deps
	@$(MAKE) --no-print-directory check

## check: all tests without installing anything (VARIANT chooses the build)
check: check-deps all tests
	@tests/tools/run-tests $(O) $(SUITES)

# With what is run only when somebody asks for it: it compiles.
tests: $(TESTS) $(O)/tests/deploy/replicas $(BENCHES)

## asan: all tests under AddressSanitizer, LeakSanitizer and UBSan
asan:
	@$(MAKE) --no-print-directory VARIANT=asan check
## tsan: all tests of what has threads under ThreadSanitizer
tsan:
	@$(MAKE) --no-print-directory VARIANT=tsan check

## fuzz: build every libFuzzer target and run each for T seconds (default 60)
fuzz: lint-deps
	@$(MAKE) --no-print-directory VARIANT=fuzz fuzz-run
.PHONY: fuzz-run fuzz-build
fuzz-build: $(FUZZERS)
fuzz-run: fuzz-build
	@tests/tools/run-fuzz $(O) $(T) $(patsubst tests/fuzz/%.c,%,$(FUZZ_C))

## e2e: the page in headless Chromium and clients from npm (needs a network, node, chromium; MODEL=dir chooses the model)
e2e: all
	@tests/e2e/run $(O) $(MODEL)

## replicas: three replicas behind a real HAProxy: rolled, killed, hanging (needs Debian's haproxy)
replicas: all $(O)/tests/deploy/replicas
	@TTMD_BUILD=$(O) OPENBLAS_NUM_THREADS=1 $(O)/tests/deploy/replicas

## bench: engine and daemon beside the machine's limits, on random GPT-2 smalls (QUICK=1, RESULTS=tests/bench)
bench: all $(O)/bench/load
	@tests/tools/bench $(O)

## cross: NEON kernels under emulation, and the binary on an x86-64 without AVX (needs cross compiler and qemu)
cross: all
	@tests/tools/cross $(O)/ttm

## lint: format, include rules, file and function length, cppcheck, clang-tidy, gcc and clang warnings
lint: lint-deps
	@tests/lint/lint
## format: rewrite the sources with clang-format
format: lint-deps
	@git ls-files '*.c' '*.h' '*.inc' | xargs clang-format -i

## readme: write the table of configuration keys into README.md
readme: all
	@tests/tools/readme-table $(O)/ttmd README.md

## install: ttmd and ttm into $(DESTDIR)$(PREFIX)/bin, manual pages, bash completion, the systemd unit, the sample configuration
install: all $(O)/ttmd.1 $(O)/ttm.1 $(O)/ttmd.bash $(O)/ttm.bash
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/ttmd $(DESTDIR)$(PREFIX)/share/man/man1 \
	    $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	install -m 644 $(O)/ttmd.1 $(O)/ttm.1 $(DESTDIR)$(PREFIX)/share/man/man1
	for p in ttmd ttm; do install -m 644 $(O)/$$p.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/$$p; done
	install -m 755 $(BINS) $(DESTDIR)$(PREFIX)/bin
	install -m 644 config/ttmd.json README.md LICENSE $(DESTDIR)$(PREFIX)/share/ttmd
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed -e 's|@bindir@|$(PREFIX)/bin|' -e 's|@datadir@|$(PREFIX)/share/ttmd|' docker/ttmd.service \
	  > $(DESTDIR)$(PREFIX)/lib/systemd/system/ttmd.service

# The programs write their manual pages and completions from the tables that parse their flags.
$(O)/ttmd.1: $(O)/ttmd
	@$< --help-man > $@
$(O)/ttm.1: $(O)/ttm
	@$< help --man > $@
$(O)/ttmd.bash: $(O)/ttmd
	@$< --help-bash > $@
$(O)/ttm.bash: $(O)/ttm
	@$< help --bash > $@

## clean: remove build/
clean:
	rm -rf $(B)

# ---- rules ----
# No outside byte reaches the kernels, and clang needs many minutes for their unrolled loops under its
# sanitizers: the fuzzers take them plain. (asan and tsan do instrument them, with gcc.)
# At -O3 gcc takes two minutes for one of them under ASan, at -O1 twenty seconds.
FAST := $(if $(filter asan tsan,$(VARIANT)),-O1,-O3)
$(call obj,$(ISA_OURS)): SAN_fuzz :=
$(call obj,engine/run/sampler.c engine/run/sampler_filter.c): ALL_CFLAGS += $(FAST) # passes over rows of V
$(call obj,engine/kernels/pack.c): ALL_CFLAGS += $(FAST) # bytes that change places: what a start waits for
$(O)/obj/%_avx2.o: ALL_CFLAGS += $(FAST) $(ISA_avx2)
$(O)/obj/%_avxvnni.o: ALL_CFLAGS += $(FAST) $(ISA_avxvnni)
$(O)/obj/%_avx512.o: ALL_CFLAGS += $(FAST) $(ISA_avx512)
$(O)/obj/%_avx512vnni.o: ALL_CFLAGS += $(FAST) $(ISA_avx512vnni)
$(O)/obj/%_amx.o: ALL_CFLAGS += $(FAST) $(ISA_amx)
$(O)/obj/%_neon.o: ALL_CFLAGS += $(FAST) $(ISA_neon)
$(O)/obj/%_neondot.o: ALL_CFLAGS += $(FAST) $(ISA_neondot)
$(O)/obj/%.o: %.c $(O)/flags
	@mkdir -p $(@D)
	@echo "  CC $(VARIANT) $<"
	@$(CC) $(CPPFLAGS) $(ALL_CFLAGS) $(if $(filter $(GIT_C),$<),-DTTMD_GIT='"$(GIT)"') -c $< -o $@

# What the daemon carries with it; the compiler's list of dependencies does not know about .incbin.
$(O)/obj/server/assets.o: server/page.html server/openapi.json

# A file that is as old as its text.
keep_text = @mkdir -p $(@D); echo '$(1)' | cmp -s - $@ || echo '$(1)' > $@

# Who tells the commit is compiled anew when there is another one.
GIT_C := $(shell grep -l TTMD_GIT server/*.c models/*.c)
$(call obj,$(GIT_C)): $(O)/git
$(O)/git: FORCE
	$(call keep_text,$(GIT))

# Rebuild everything when compiler or flags change; without those that single files add.
FLAGS := $(CC) $(CPPFLAGS) $(ALL_CFLAGS)
$(O)/flags: FORCE
	$(call keep_text,$(FLAGS))
# Those of the linker ask for no more than linking.
LINK := $(LDFLAGS) | $(LDLIBS) | $(TESTLIBS)
$(O)/link: FORCE
	$(call keep_text,$(LINK))
.PHONY: FORCE

OF_engine := $(call obj,$(ENGINE_C))
OF_config := $(call obj,$(CONFIG_C))
OF_server := $(call obj,$(filter-out server/main.c,$(SERVER_C)))
OF_models := $(call obj,$(filter-out models/main.c,$(MODELS_C)))
$(O)/libengine.a: $(OF_engine)
$(O)/libconfig.a: $(OF_config)
$(O)/libserver.a: $(OF_server)
$(O)/libmodels.a: $(OF_models)
$(O)/lib%.a: $(O)/lib%.objects
	@rm -f $@; ar rcs $@ $(filter %.o,$^)
# A source that is deleted makes nothing newer: the list of objects tells that one is gone.
$(O)/lib%.objects: FORCE
	$(call keep_text,$(OF_$*))
$(O)/ttmd: $(O)/obj/server/main.o $(LIBS) $(O)/link
	@echo "  LD $@"; $(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $< $(LIBS) $(LDLIBS)
$(O)/ttm: $(O)/obj/models/main.o $(LIBS) $(O)/link
	@echo "  LD $@"; $(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $< $(LIBS) $(LDLIBS)
$(O)/tests/%: $(O)/obj/tests/%.o $(call obj,$(SUPPORT_C)) $(LIBS) $(O)/link
	@mkdir -p $(@D); echo "  LD $@"; $(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $< $(call obj,$(SUPPORT_C)) $(LIBS) $(TESTLIBS) $(LDLIBS)
$(O)/bench/%: $(O)/obj/tests/bench/%.o $(call obj,$(SUPPORT_C)) $(LIBS) $(O)/link
	@mkdir -p $(@D); echo "  LD $@"; $(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $< $(call obj,$(SUPPORT_C)) $(LIBS) $(TESTLIBS) $(LDLIBS)
$(O)/fuzz/%: $(O)/obj/tests/fuzz/%.o $(LIBS) $(O)/link
	@mkdir -p $(@D); echo "  LD $@"; $(CC) $(ALL_CFLAGS) -fsanitize=fuzzer $(LDFLAGS) -o $@ $< $(LIBS) $(LDLIBS)

-include $(shell find $(O)/obj -name '*.d' 2>/dev/null)
