#!/bin/sh
# usage: check_browser.sh PYTHON: says what the browser tests lack, and how to get it; installs nothing.
python=$1
missing=0
if ! "$python" -c "import playwright, axe_playwright_python" 2>/dev/null; then
    echo "missing: playwright and axe-core. Run: $python -m pip install --group browser"
    missing=1
fi
if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null && ! command -v google-chrome >/dev/null; then
    echo "missing: chromium. On Debian: apt-get install chromium"
    missing=1
fi
exit $missing
