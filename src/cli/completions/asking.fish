
# Job ids and account names as they are now.
function __longshore_asking
    longshore __complete (string join ' ' -- (commandline -opc) (commandline -ct)) 2>/dev/null
end
complete -c longshore -a '(__longshore_asking)'
complete -c longshore -l account -x -a '(__longshore_asking)'
