"""``mper benchmark``: methods compared on the left atrium and on ACDC, run by run, as tables and pictures.

`plan` says which runs there are, `work` trains and evaluates them, `tables` and `figures` show what was found;
`made_up` is the data of a smoke run.
"""
