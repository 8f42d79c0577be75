
# Job ids and account names as they are now; everything else as above.
_longshore_asking() {
    local line="${COMP_LINE:0:COMP_POINT}" current="${COMP_WORDS[COMP_CWORD]}" whole found
    whole="${line##*[[:space:]]}"
    # A colon divides words here, and does not divide them for the program.
    [[ "$current" == ":" ]] && current=""
    mapfile -t found < <("${COMP_WORDS[0]}" __complete "$line" 2>/dev/null)
    if [[ ${#found[@]} -gt 0 ]]; then
        COMPREPLY=("${found[@]#"${whole%"$current"}"}")
    else
        _longshore "$@"
    fi
}
complete -F _longshore_asking -o nosort -o bashdefault -o default longshore
