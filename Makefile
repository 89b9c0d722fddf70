# ttmd and ttm.  `make help` lists the targets.
#
#   VARIANT  release | asan | tsan | fuzz: flags below, objects in $(B)/$(VARIANT)/
#   B        build root, default build
#   CC       gcc (default) or clang; fuzz needs clang

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

O       := $(B)/$(VARIANT)
PKGS    := libmicrohttpd jansson openblas libutf8proc
TESTPKG := check
APT     := gcc make pkg-config libmicrohttpd-dev libjansson-dev libopenblas-dev libutf8proc-dev check
APTLINT := git clang clang-format clang-tidy cppcheck libclang-rt-14-dev
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
CFLAGS      ?= -g
ALL_CFLAGS   = -std=c11 $(OPT_$(VARIANT)) $(CFLAGS) -pthread -fno-strict-aliasing $(WARN) $(SAN_$(VARIANT)) -MMD -MP
LDLIBS      += $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lm -pthread
TESTLIBS    := $(shell pkg-config --libs $(TESTPKG) 2>/dev/null)

# One instruction set per file: each gets its own flags and only the matching machine builds it.
ISA_SUFFIX_x86_64  := avx2 avx512
ISA_SUFFIX_aarch64 := neon
ISA_avx2    := -mavx2 -mfma -mf16c
ISA_avx512  := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c -mprefer-vector-width=512
ISA_neon    :=
isa_files   = $(foreach s,$(1),$(wildcard engine/*/*_$(s).c))
ISA_ALL     := $(call isa_files,avx2 avx512 neon)
ISA_OURS    := $(call isa_files,$(ISA_SUFFIX_$(ARCH)))

ENGINE_C := $(filter-out $(ISA_ALL),$(wildcard engine/*/*.c)) $(ISA_OURS)
CONFIG_C := $(wildcard config/*.c)
SERVER_C := $(wildcard server/*.c)
MODELS_C := $(wildcard models/*.c models/*/*.c)
SUPPORT_C:= $(wildcard tests/support/*.c)
TEST_C   := $(sort $(shell find tests -name 'test_*.c' -not -path 'tests/support/*' 2>/dev/null))
FUZZ_C   := $(sort $(wildcard tests/fuzz/fuzz_*.c))
obj       = $(patsubst %.c,$(O)/obj/%.o,$(1))

LIBS     := $(O)/libserver.a $(O)/libmodels.a $(O)/libconfig.a $(O)/libengine.a
TESTS    := $(patsubst tests/%.c,$(O)/tests/%,$(TEST_C))
FUZZERS  := $(patsubst tests/fuzz/%.c,$(O)/fuzz/%,$(FUZZ_C))
BINS     := $(O)/ttmd $(O)/ttm

.PHONY: all help deps lint-deps check-deps serve test check asan tsan fuzz bench lint format readme install clean tests
.SECONDARY:

## all: build ttmd and ttm into build/release (says which package is missing)
all: check-deps $(BINS)

## help: this list
help:
	@echo "make targets:"; sed -n 's/^## \([a-z-]*\): /  \1|/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-12s %s\n", $$1, $$2}'
	@echo "variables: B=build VARIANT=release|asan|tsan CC=gcc|clang MODEL=dir ARGS='ttmd flags' T=seconds PREFIX DESTDIR"

check-deps:
	@command -v pkg-config >/dev/null || { echo "missing package: pkg-config (run: make deps)" >&2; exit 1; }
	@ok=1; for p in $(PKGS); do pkg-config --exists $$p || { ok=0; \
	  case $$p in jansson) d=libjansson-dev;; openblas) d=libopenblas-dev;; *) d=$$p-dev;; esac; \
	  echo "missing package: $$d (run: make deps)" >&2; }; done; [ $$ok = 1 ]

## deps: install the packages that building and testing need (apt-get, with sudo when not root)
deps:
	@tests/tools/apt-install $(APT)
lint-deps:
	@tests/tools/apt-install $(APT) $(APTLINT)

## serve: install packages, build, start the daemon (MODEL=dir chooses the model, ARGS its flags)
serve: deps
	@$(MAKE) --no-print-directory all
	@tests/tools/serve "$(O)/ttmd" "$(MODEL)" $(ARGS)

## test: install packages, build, run all tests
test: deps
	@$(MAKE) --no-print-directory check

## check: all tests without installing anything (VARIANT chooses the build)
check: check-deps all tests
	@tests/tools/run-tests $(O) $(patsubst tests/%.c,%,$(TEST_C))

tests: $(TESTS)

## asan: all tests under AddressSanitizer, LeakSanitizer and UBSan
asan:
	@$(MAKE) --no-print-directory VARIANT=asan check
## tsan: all tests under ThreadSanitizer
tsan:
	@$(MAKE) --no-print-directory VARIANT=tsan check

## fuzz: build every libFuzzer target and run each for T seconds (default 60)
fuzz: lint-deps
	@$(MAKE) --no-print-directory VARIANT=fuzz fuzz-run
.PHONY: fuzz-run fuzz-build
fuzz-build: $(FUZZERS)
fuzz-run: fuzz-build
	@tests/tools/run-fuzz $(O) $(T) $(patsubst tests/fuzz/%.c,%,$(FUZZ_C))

## bench: rates of the engine beside the machine's limits, on a random GPT-2 small
bench: all
	@tests/tools/bench $(O)

## lint: format, include rules, file and function length, cppcheck, clang-tidy, gcc and clang warnings
lint: lint-deps
	@tests/lint/lint
## format: rewrite the sources with clang-format
format: lint-deps
	@git ls-files '*.c' '*.h' '*.inc' | xargs clang-format -i

## readme: write the table of configuration keys into README.md
readme: all
	@tests/tools/readme-table $(O)/ttmd README.md

## install: ttmd and ttm into $(DESTDIR)$(PREFIX)/bin, the sample configuration into share/ttmd
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/ttmd
	install -m 755 $(BINS) $(DESTDIR)$(PREFIX)/bin
	install -m 644 config/ttmd.json README.md LICENSE $(DESTDIR)$(PREFIX)/share/ttmd

## clean: remove build/
clean:
	rm -rf $(B)

# ---- rules ----
# No outside byte reaches the kernels, and clang needs many minutes for their unrolled loops under its
# sanitizers: the fuzzers take them plain. (asan and tsan do instrument them, with gcc.)
$(call obj,$(ISA_OURS)): SAN_fuzz :=
$(O)/obj/%_avx2.o: ALL_CFLAGS += -O3 $(ISA_avx2)
$(O)/obj/%_avx512.o: ALL_CFLAGS += -O3 $(ISA_avx512)
$(O)/obj/%_neon.o: ALL_CFLAGS += -O3 $(ISA_neon)
$(O)/obj/%.o: %.c $(O)/flags
	@mkdir -p $(@D)
	@echo "  CC $(VARIANT) $<"
	@$(CC) $(CPPFLAGS) $(ALL_CFLAGS) $(if $(filter server/% models/% config/% engine/base/version%,$<),-DTTMD_GIT='"$(GIT)"') -c $< -o $@

# Rebuild everything when compiler or flags change.
$(O)/flags: FORCE
	@mkdir -p $(O)
	@echo '$(CC) $(CPPFLAGS) $(ALL_CFLAGS)' | cmp -s - $@ || echo '$(CC) $(CPPFLAGS) $(ALL_CFLAGS)' > $@
FORCE:

$(O)/libengine.a: $(call obj,$(ENGINE_C))
$(O)/libconfig.a: $(call obj,$(CONFIG_C))
$(O)/libserver.a: $(call obj,$(filter-out server/main.c,$(SERVER_C)))
$(O)/libmodels.a: $(call obj,$(filter-out models/main.c,$(MODELS_C)))
$(O)/lib%.a:
	@rm -f $@; ar rcs $@ $^
$(O)/ttmd: $(O)/obj/server/main.o $(LIBS)
	@echo "  LD $@"; $(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $< $(LIBS) $(LDLIBS)
$(O)/ttm: $(O)/obj/models/main.o $(LIBS)
	@echo "  LD $@"; $(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $< $(LIBS) $(LDLIBS)
$(O)/tests/%: $(O)/obj/tests/%.o $(call obj,$(SUPPORT_C)) $(LIBS)
	@mkdir -p $(@D); echo "  LD $@"; $(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $< $(call obj,$(SUPPORT_C)) $(LIBS) $(TESTLIBS) $(LDLIBS)
$(O)/fuzz/%: $(O)/obj/tests/fuzz/%.o $(LIBS)
	@mkdir -p $(@D); echo "  LD $@"; $(CC) $(ALL_CFLAGS) -fsanitize=fuzzer $(LDFLAGS) -o $@ $< $(LIBS) $(LDLIBS)

-include $(shell find $(O)/obj -name '*.d' 2>/dev/null)
