# Job ids and account names as they are now; everything else as above.
_longshore_asking() {
    local -a found
    found=(${(f)"$(${(Q)words[1]} __complete "${(j: :)words[1,CURRENT]}" 2>/dev/null)"})
    if (( ${#found} )); then
        compadd -a found
    else
        _longshore "$@"
    fi
}

if [ "$funcstack[1]" = "_longshore" ]; then
    _longshore_asking "$@"
else
    compdef _longshore_asking longshore
fi
