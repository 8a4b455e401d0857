PS1='zcnic:\w# '
alias ll='ls -l'
