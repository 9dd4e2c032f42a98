#!/usr/bin/env bash
# Known vulnerabilities of the installed packages, by pip-audit. Exit status: 0 none known, 1 some are,
# 2 where no service can be asked.
set -uo pipefail
bin=.venv/bin
$bin/python -m pip_audit --version >/dev/null 2>&1 || $bin/uv pip install --quiet --python $bin/python pip-audit
found=$(mktemp)
trap 'rm -f "$found"' EXIT
# The registry's own answer first, then the other service that pip-audit knows.
for service in pypi osv; do
  timeout 300 $bin/python -m pip_audit --local --skip-editable --progress-spinner off --timeout 20 \
    --vulnerability-service $service >"$found" 2>&1
  status=$?
  if [ $status -eq 0 ] || grep -q "known vulnerabilit" "$found"; then
    cat "$found"
    exit $status
  fi
done
echo "audit: could not run here, neither vulnerability service answered:"
tail -n 1 "$found"
exit 2
