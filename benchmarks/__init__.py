"""One file per question. Each prints hardware, versions and its command, and compares side by side in one run."""
