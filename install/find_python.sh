# Prints the first Python on the path that hipie supports (3.11 to 3.13), or nothing.
for name in python3 python python3.13 python3.12 python3.11; do
    if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
    then
        echo "$name"
        exit 0
    fi
done
