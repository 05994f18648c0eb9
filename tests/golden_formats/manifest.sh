#!/bin/sh
# What is below a directory, as lines that are the same wherever it is: path, type, permissions, owner, size of files, time,
# link target, extended attributes, and the content's SHA-256.
set -eu
cd "$1"
export LC_ALL=C TZ=UTC
find . -mindepth 1 ! -type f -printf '%P\t%y\t%m\t%U:%G\t-\t%TY-%Tm-%TdT%TT\t%l\n' | sort
find . -type f -printf '%P\t%y\t%m\t%U:%G\t%s\t%TY-%Tm-%TdT%TT\t%n names\n' | sort
find . -type f -exec sha256sum {} + | sort -k 2
find . -print0 | sort -z | xargs -0 getfattr -h -d -m - 2>/dev/null | grep -v '^$' || true
