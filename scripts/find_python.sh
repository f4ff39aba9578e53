#!/bin/sh
# Prints the first Python on the path that Sterling runs on, newest first; one line if there is none.
# Each candidate is run, not only looked up: version managers leave commands that only say no.
for candidate in python3.11 python3.10 python3 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 10), (3, 11)))' \
        >/dev/null 2>&1; then
        echo "$candidate"
        exit 0
    fi
done
echo "sterling: needs Python 3.10 or 3.11 (tensorflow-privacy, which supplies the noise mechanisms, supports none newer). Install one and run make again." >&2
exit 1
