# Two commands set everything up on a fresh Debian 12 machine: `make demo` and `make test`.
DESTDIR ?=
PREFIX  ?= /usr
PYTHON  := .venv/bin/python

# Where `make install` puts things; a distribution sets what differs.
PYTHON_SYSTEM ?= /usr/bin/python3
SITEDIR       ?= $(shell $(PYTHON_SYSTEM) -c 'import sysconfig as s; \
  names = s.get_scheme_names(); scheme = "deb_system" if "deb_system" in names else "posix_prefix"; \
  print(s.get_path("purelib", scheme, vars={"base": "$(PREFIX)", "platbase": "$(PREFIX)"}))')
BINDIR        ?= $(PREFIX)/bin
UNITDIR       ?= $(PREFIX)/lib/systemd/system
USERUNITDIR   ?= $(PREFIX)/lib/systemd/user
SHAREDIR      ?= $(PREFIX)/share

# Which tests `make vm-test` runs: "vm" is the short way from installation to rollback.
VM ?= vm or vm_long

help:            ## list what is supported
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 12

setup:           ## install what the project needs (Debian packages, .venv)
	@tests/setup.sh

demo: setup      ## run the main job on a throw-away host, narrated, in about a minute
	@$(PYTHON) -m tests.demo

test: setup      ## run the whole test suite
	@# The tests mostly wait, so there are more of them at a time than two cores would suggest.
	@$(PYTHON) -m pytest -n 3 --dist worksteal

interop:         ## try bootcd and bootc's own storage code on one repository (needs Rust; builds for minutes, once)
	@tests/setup.sh interop
	@$(PYTHON) -m tests.interop.peer
	@$(PYTHON) -m pytest tests/interop

.PHONY: vm-test
vm-test:         ## boot the test operating system in a virtual machine and try everything only a boot can show
	@tests/setup.sh vm
	@$(PYTHON) -m pytest -n 0 -m "$(VM)" tests/vm

bench: setup     ## print measured figures side by side with peers (SIZE=200M, ROUNDS=1, FS=ext4,xfs, BENCH='--json FILE')
	@$(PYTHON) -m tests.bench --size=$(or $(SIZE),1G) --rounds=$(or $(ROUNDS),3) --fs=$(or $(FS),ext4) $(BENCH)

fuzz: setup      ## look for inputs that break a parser of untrusted bytes (FUZZ='--secs 600 tar')
	@.venv/bin/uv pip install --quiet --group fuzz || true
	@$(PYTHON) -m tests.fuzz $(FUZZ)

simulate: setup  ## let machines live for a million minutes with the real service, and judge what they do
	@$(PYTHON) -m tests.simulate $(SIMULATE)

fuzz-bus: setup  ## call every member of the bus interface with nonsense, for ten minutes (SECS=600)
	@BOOTCD_FUZZ_SECONDS=$(or $(SECS),600) $(PYTHON) -m pytest -q -s tests/service/test_bus_fuzz.py -k nonsense

install:         ## put every file where a distribution expects it (DESTDIR=, PREFIX=/usr)
	@find bootcd bootcctl -name '*.py' -exec install -D -m 644 {} $(DESTDIR)$(SITEDIR)/{} \;
	@# On an image-based host every file is from 1970 and the directory is read-only: byte code that is
	@# checked by time stamps would be compiled anew at every start.
	@$(PYTHON_SYSTEM) -m compileall -q --invalidation-mode unchecked-hash -s '$(DESTDIR)' -p / \
	  $(DESTDIR)$(SITEDIR)/bootcd $(DESTDIR)$(SITEDIR)/bootcctl
	@install -d $(DESTDIR)$(BINDIR)
	@for script in bootcctl:bootcctl bootcd:bootcd bootcd-worker:bootcd.worker bootcd-install:bootcd.install \
	  bootcd-image:bootcd.image bootcd-health:bootcd.health; do \
	  printf '#!%s -I\nfrom %s.__main__ import main\n\nraise SystemExit(main())\n' \
	    '$(PYTHON_SYSTEM)' "$${script#*:}" >$(DESTDIR)$(BINDIR)/$${script%:*}; \
	  chmod 755 $(DESTDIR)$(BINDIR)/$${script%:*}; done
	@install -d $(DESTDIR)$(UNITDIR)
	@for unit in bootcd bootcd-health bootcd-boot-counter bootcd-fleet-lock; do sed 's|/usr/bin/bootcd|$(BINDIR)/bootcd|' systemd/$$unit.service \
	  >$(DESTDIR)$(UNITDIR)/$$unit.service; done
	@install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/systemd/system-preset systemd/90-bootcd.preset
	@install -d $(DESTDIR)$(USERUNITDIR)
	@sed 's|/usr/bin/bootcctl|$(BINDIR)/bootcctl|' systemd/user/bootcd-notify.service \
	  >$(DESTDIR)$(USERUNITDIR)/bootcd-notify.service
	@install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/systemd/user-preset systemd/user/90-bootcd.preset
	@install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/tmpfiles.d systemd/bootcd.conf
	@install -D -m 644 -t $(DESTDIR)/usr/lib/bootcd/config.d systemd/config/*.toml
	@install -D -m 644 -t $(DESTDIR)$(SHAREDIR)/dbus-1/system.d dbus/org.bootcd1.conf
	@install -D -m 644 -t $(DESTDIR)$(SHAREDIR)/dbus-1/system-services dbus/org.bootcd1.service
	@install -D -m 644 -t $(DESTDIR)$(SHAREDIR)/dbus-1/interfaces dbus/*.xml
	@install -D -m 644 -t $(DESTDIR)$(SHAREDIR)/bootcd docs/clients/bootcd1.py
	@install -D -m 644 -t $(DESTDIR)$(SHAREDIR)/varlink docs/io.bootcd.varlink
	@install -D -m 644 -t $(DESTDIR)$(SHAREDIR)/polkit-1/actions dbus/org.bootcd1.policy
	@install -D -m 644 -t $(DESTDIR)$(SHAREDIR)/man/man1 docs/man/*.1
	@install -D -m 644 -t $(DESTDIR)$(SHAREDIR)/man/man8 docs/man/*.8
	@install -D -m 644 bootcctl/completion/bootcctl.bash \
	  $(DESTDIR)$(SHAREDIR)/bash-completion/completions/bootcctl
	@install -D -m 644 bootcd/install/completion/bootcd-install.bash \
	  $(DESTDIR)$(SHAREDIR)/bash-completion/completions/bootcd-install
	@install -D -m 644 bootcd/image/completion/bootcd-image.bash \
	  $(DESTDIR)$(SHAREDIR)/bash-completion/completions/bootcd-image
	@install -D -m 644 -t $(DESTDIR)$(SHAREDIR)/zsh/site-functions \
	  bootcctl/completion/_bootcctl bootcd/install/completion/_bootcd-install bootcd/image/completion/_bootcd-image
	@install -D -m 644 -t $(DESTDIR)$(SHAREDIR)/fish/vendor_completions.d \
	  bootcctl/completion/bootcctl.fish bootcd/install/completion/bootcd-install.fish \
	  bootcd/image/completion/bootcd-image.fish
	@install -D -m 644 -t $(DESTDIR)$(SHAREDIR)/licenses/bootcd LICENSE

lock:            ## pin the newest allowed versions in requirements.lock
	@.venv/bin/uv pip compile --quiet --generate-hashes --no-annotate --no-header --upgrade \
	  --python-version 3.11 --group dev pyproject.toml \
	  --output-file requirements.lock

clean:           ## remove what the project made here
	rm -rf .venv .cache build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: help setup demo test interop bench fuzz fuzz-bus simulate install lock clean
