# One entry point for people and for CI. Every target brings what it needs; on Debian that needs root once.

PYTHON  ?= /usr/bin/python3
PREFIX  ?= /usr/local
DESTDIR ?=
# Tests side by side; three keep two cores busy, as tests also wait: for disks, for guests that boot.
WORKERS ?= 3
ARGS    ?=

VENV    := .venv
READY   := $(VENV)/.ready
RUN     := $(VENV)/bin/python
PYTEST   = $(RUN) -m pytest -n $(WORKERS) $(ARGS)

# Of Debian: the bindings of Btrfs and libarchive; the tools of tests and demo; what builds two real systems to test with.
PACKAGES := python3-venv, python3-btrfsutil, btrfs-progs, libarchive13, \
            acl, attr, e2fsprogs, libarchive-tools, mandoc, shellcheck, strace, \
            debian-archive-keyring, mmdebstrap, rsync, zstd, \
            busybox, chromium, dosfstools, faketime, fish, grub-common, libubootenv-tool, lz4, mtools, ovmf, parted, postgresql, qemu-system-x86, qemu-utils, \
            systemd-journal-remote, u-boot-qemu, u-boot-tools, zsh
PYTHONS  := tbdiff tbupdate tbserver manual tests demo benchmarks debian/environment.py
SCRIPTS   = .ci/run $(shell git ls-files -- '*.sh' 2>/dev/null) $(shell find boot-hooks -type f -perm /100)

export PATH := $(PATH):/usr/sbin:/sbin

# The site of the documentation, to be read from the directory or from any web server.
SITE ?= build/site

.PHONY: help root setup packages demo check lint test test-fast crash-test fuzz bench docs install install-server deb uninstall clean

help:
	@echo 'make demo       a whole life of a device in a minute, on a loop image (root)'
	@echo 'make check      everything that CI checks: ruff, mypy, shellcheck, all tests but the longest journeys (root)'
	@echo 'make test-fast  the tests that take less than two minutes in all (root)'
	@echo 'make test       all tests (root); pass more to pytest with ARGS='
	@echo 'make crash-test  a power cut at every write of deploy, commit and rollback, at random moments, and long journeys (root; hours)'
	@echo 'make lint       ruff, mypy, shellcheck'
	@echo 'make fuzz       look for bytes that a decoder neither understands nor refuses (a minute for each)'
	@echo 'make bench      size and speed beside other programs, an hour of computing (root); --pair, --only in ARGS='
	@echo 'make docs       the documentation as a site, in $(SITE)'
	@echo 'make setup      only what all of these do first: Debian packages and $(VENV)'
	@echo 'make install    to PREFIX=$(PREFIX) below DESTDIR, with its own Python environment'
	@echo 'make install-server  the same with tb-server, which a device does not need'
	@echo 'make deb        packages of both for the Debian that this is, into dist/'
	@echo 'make uninstall  what install brought'
	@echo 'make clean      remove what was made here'

setup: $(READY)

$(READY): setup.cfg pyproject.toml Makefile
	@$(MAKE) --no-print-directory packages
	@# The bindings of Btrfs come from Debian: compiled from PyPI they need a compiler and the right libbtrfsutil.
	test -x $(RUN) || $(PYTHON) -m venv --system-site-packages $(VENV)
	$(RUN) -m pip install --quiet --editable '.[dev,device,server]'
	@# A DDI client to test with, as it is: its D-Bus part, which is replaced there, would compile PyGObject.
	$(RUN) -m pip install --quiet --no-deps rauc-hawkbit==0.2.0
	@touch $@

packages:
	@if ! command -v apt-get >/dev/null; then \
	    echo 'No apt-get here: install the like of $(PACKAGES) yourself.' >&2; \
	elif planned=$$(apt-get satisfy --simulate '$(PACKAGES)' 2>/dev/null) && ! echo "$$planned" | grep -q '^Inst '; then \
	    :; \
	elif [ "$$(id -u)" != 0 ]; then \
	    echo "Debian packages are missing; as root: apt-get satisfy '$(PACKAGES)'" >&2; exit 1; \
	else \
	    export DEBIAN_FRONTEND=noninteractive; \
	    apt-get update --quiet --quiet && \
	    apt-get satisfy -o Dpkg::Use-Pty=0 --quiet --quiet --yes --no-install-recommends '$(PACKAGES)' >/dev/null; \
	fi

demo: $(READY)
	@$(RUN) -m demo $(ARGS)

lint: $(READY)
	$(RUN) -m ruff check $(PYTHONS)
	$(RUN) -m ruff format --check $(PYTHONS)
	$(RUN) -m mypy
	shellcheck --exclude=SC1091 $(SCRIPTS)

root:
	@if [ "$$(id -u)" != 0 ]; then \
	    echo 'The tests make file systems, mount them, and make files of other owners: run this as root.' >&2; exit 1; fi

test: root $(READY)
	$(PYTEST)

check: root lint
	@# What takes long is told, so that it does not grow unseen.
	$(PYTEST) -m 'not journey' --durations=60 --durations-min=10

# The pure code, and the main job on real Btrfs.
FAST := tests/unit tests/btrfs/test_roundtrip.py tests/btrfs/test_deploy_device.py
test-fast: root $(READY)
	$(PYTEST) -m 'not slow' $(FAST)

crash-test: root $(READY)
	TB_CRASH=all $(PYTEST) -k 'power_cuts or test_cuts or whenever_it_is_cut or journey' tests/crash tests/boot

fuzz: $(READY)
	@$(RUN) -m tests.fuzz $(ARGS)

# What the benchmarks are measured beside; whatever of it is not installed is left out.
PEERS := casync, ostree, xdelta3
bench: $(READY)
	@$(MAKE) --no-print-directory packages PACKAGES='$(PEERS)'
	@$(RUN) -m benchmarks $(ARGS)

docs: $(READY)
	@# Anything that it warns of is an error, such as a link that leads nowhere.
	$(RUN) -m sphinx --quiet --fail-on-warning --nitpicky --conf-dir manual/site --doctree-dir build/doctrees . $(SITE)
	@echo '$(SITE)/index.html'

# Debian 12 has no package of some of the libraries: the programs get an environment of their own, which sees Debian's.
HOME_OF_INSTALL := $(PREFIX)/lib/tb-update
# Of the extras in setup.cfg.
EXTRAS := device
SHARE := /usr/share
INITCPIO := /usr/lib/initcpio
UNITS := /usr/lib/systemd/system
MAN = $(PREFIX)/share/man
# Where the completion of each shell is looked for.
BASH := $(SHARE)/bash-completion/completions
ZSH := $(SHARE)/zsh/vendor-completions
FISH := $(SHARE)/fish/vendor_completions.d
PROGRAMS := tbdiff tbdiff-create tbdiff-deploy tb-update tb-update-fetcher
SERVICES := carry health commit rollback rollback@ watch upgrade agent fetch
# Manual pages and completion, by what was just put there: that brings all it takes.
define manual
@cd '$(CURDIR)' && made='$(DESTDIR)$(HOME_OF_INSTALL)/manual' && \
    '$(DESTDIR)$(HOME_OF_INSTALL)/bin/python' -B -m manual "$$made" && \
    for page in $(2); do install -D -m644 "$$made/man/$$page" '$(DESTDIR)$(MAN)'/"$$page" || exit 1; done && \
    for program in $(1); do \
        install -D -m644 -t '$(DESTDIR)$(BASH)' "$$made/bash/$$program" && \
        install -D -m644 -t '$(DESTDIR)$(ZSH)' "$$made/zsh/_$$program" && \
        install -D -m644 -t '$(DESTDIR)$(FISH)' "$$made/fish/$$program.fish" || exit 1; done && \
    rm -r "$$made"
endef

install:
	rm -rf build
	$(PYTHON) -m venv --system-site-packages '$(DESTDIR)$(HOME_OF_INSTALL)'
	'$(DESTDIR)$(HOME_OF_INSTALL)/bin/python' -m pip install --quiet --upgrade '.[$(EXTRAS)]'
	@# Only our programs; and they run from where they will stand, not from where they were put together.
	@cd '$(DESTDIR)$(HOME_OF_INSTALL)' && \
	    find bin -mindepth 1 ! -name 'python*' $(PROGRAMS:%=! -name '%') -delete && \
	    if [ -n '$(DESTDIR)' ]; then sed -i 's|$(DESTDIR)$(HOME_OF_INSTALL)|$(HOME_OF_INSTALL)|g' bin/tb* pyvenv.cfg; fi
	@# Isolated: what runs as root takes no modules from PYTHON* variables, the current directory, or a home.
	@sed -i -e '1s|^#!.*/python[0-9.]*$$|& -I|' -e '2s|^\(.*exec. [^ ]*/python[0-9.]*"\?\) |\1 -I |' \
	    '$(DESTDIR)$(HOME_OF_INSTALL)'/bin/tb* && \
	    test "$$(head -n 2 '$(DESTDIR)$(HOME_OF_INSTALL)'/bin/tb* | grep -c -- '/python[0-9.]*"\? -I')" = $(words $(PROGRAMS))
	install -d '$(DESTDIR)$(PREFIX)/bin'
	$(call manual,tbdiff tb-update,man1/tbdiff.1 man5/tbdiff.5 man5/tb-update.toml.5 man8/tb-update.8)
	@# Where each generator of an initramfs looks, whatever PREFIX is.
	install -D boot-hooks/boot '$(DESTDIR)$(SHARE)/tb-update/boot'
	install -D boot-hooks/initramfs-tools/hooks/tb-update '$(DESTDIR)$(SHARE)/initramfs-tools/hooks/tb-update'
	install -D boot-hooks/initramfs-tools/scripts/local-premount/tb-update \
	    '$(DESTDIR)$(SHARE)/initramfs-tools/scripts/local-premount/tb-update'
	install -D boot-hooks/initcpio/install/tb-update '$(DESTDIR)$(INITCPIO)/install/tb-update'
	install -D boot-hooks/initcpio/hooks/tb-update '$(DESTDIR)$(INITCPIO)/hooks/tb-update'
	install -D -m644 boot-hooks/flash-kernel/tb-update '$(DESTDIR)$(SHARE)/flash-kernel/preboot.d/tb-update'
	install -D -t '$(DESTDIR)/usr/lib/dracut/modules.d/90tb-update' boot-hooks/dracut/module-setup.sh boot-hooks/dracut/tb-update.sh
	install -d '$(DESTDIR)/etc/init.d'
	sed 's|@PROGRAM@|$(PREFIX)/bin/tb-update|' boot-hooks/init.d/tb-update >'$(DESTDIR)/etc/init.d/tb-update'
	chmod 755 '$(DESTDIR)/etc/init.d/tb-update'
	install -d '$(DESTDIR)$(UNITS)/boot-complete.target.requires' '$(DESTDIR)$(UNITS)/multi-user.target.wants' \
	    '$(DESTDIR)$(UNITS)/basic.target.wants'
	install -d '$(DESTDIR)$(UNITS)/sockets.target.wants'
	@for unit in $(SERVICES:=.service) upgrade.timer watch.timer fetch.socket api.socket api@.service; do \
	    sed 's|@PROGRAM@|$(PREFIX)/bin/tb-update|' "boot-hooks/systemd/tb-update-$$unit" \
	        >'$(DESTDIR)$(UNITS)'/"tb-update-$$unit"; done
	@# A sample: all keys that there are, with their defaults, none of them in force.
	@sed -n '/^```toml$$/,/^```$$/p' docs/configuration.md | sed -e '/^```/d' -e 's/^[^#]/#&/' >'$(DESTDIR)$(SHARE)/tb-update/config.toml'
	@sed 's|@PROGRAM@|$(PREFIX)/bin/tb-update|' boot-hooks/cron >'$(DESTDIR)$(SHARE)/tb-update/cron'
	install -D -m644 boot-hooks/systemd/watchdog.conf '$(DESTDIR)/usr/lib/systemd/system.conf.d/50-tb-update.conf'
	@for unit in upgrade agent api@; do install -D -m644 boot-hooks/systemd/applier.conf \
	    "$(DESTDIR)$(UNITS)/tb-update-$$unit.service.d/applier.conf"; done
	ln -sfn ../tb-update-fetch.socket '$(DESTDIR)$(UNITS)/sockets.target.wants/tb-update-fetch.socket'
	ln -sfn ../tb-update-health.service '$(DESTDIR)$(UNITS)/boot-complete.target.requires/tb-update-health.service'
	ln -sfn ../tb-update-carry.service '$(DESTDIR)$(UNITS)/basic.target.wants/tb-update-carry.service'
	ln -sfn ../tb-update-commit.service '$(DESTDIR)$(UNITS)/multi-user.target.wants/tb-update-commit.service'
	@for program in $(PROGRAMS); do \
	    ln -sfn "../lib/tb-update/bin/$$program" "$(DESTDIR)$(PREFIX)/bin/$$program"; done

# A device needs nothing of it.
install-server:
	@$(MAKE) --no-print-directory install EXTRAS=device,server PROGRAMS='$(PROGRAMS) tb-server'
	$(call manual,tb-server,man8/tb-server.8)
	sed 's|@PROGRAM@|$(PREFIX)/bin/tb-server|' boot-hooks/systemd/tb-server.service >'$(DESTDIR)$(UNITS)/tb-server.service'

BUILD_OPTIONS ?=
deb:
	rm -rf build/deb && mkdir -p build/deb/tb-update dist
	@# In a copy: packaging writes beside the sources, and leaves much.
	tar -c --exclude-vcs --exclude='./.venv' --exclude='./build' --exclude='./dist' --exclude='__pycache__' . | \
	    tar -x -C build/deb/tb-update
	cd build/deb/tb-update && dpkg-buildpackage --build=binary --no-sign $(BUILD_OPTIONS)
	mv build/deb/*.deb dist/

uninstall:
	rm -rf '$(DESTDIR)$(HOME_OF_INSTALL)'
	cd '$(DESTDIR)$(PREFIX)/bin' && rm -f $(PROGRAMS) tb-server
	rm -rf '$(DESTDIR)$(SHARE)/tb-update' '$(DESTDIR)/usr/lib/dracut/modules.d/90tb-update' '$(DESTDIR)/etc/init.d/tb-update' \
	    '$(DESTDIR)/usr/lib/systemd/system.conf.d/50-tb-update.conf'
	cd '$(DESTDIR)$(UNITS)' && rm -f tb-server.service tb-update-*.service tb-update-*.timer tb-update-*.socket */tb-update-*.service */tb-update-*.socket && \
	    rm -rf tb-update-*.service.d
	rm -f '$(DESTDIR)$(SHARE)/flash-kernel/preboot.d/tb-update' '$(DESTDIR)$(INITCPIO)'/*/tb-update
	cd '$(DESTDIR)$(SHARE)/initramfs-tools' && rm -f hooks/tb-update scripts/local-premount/tb-update
	@for page in man1/tbdiff.1 man5/tbdiff.5 man5/tb-update.toml.5 man8/tb-update.8 man8/tb-server.8; do rm -f '$(DESTDIR)$(MAN)'/$$page; done
	@for program in tbdiff tb-update tb-server; do \
	    rm -f '$(DESTDIR)$(BASH)'/$$program '$(DESTDIR)$(ZSH)'/_$$program '$(DESTDIR)$(FISH)'/$$program.fish; done

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(PYTHONS) -name __pycache__ -type d -prune -exec rm -rf {} +
