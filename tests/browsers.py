"""The browser that looks at pages."""

import shutil

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")

BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
