"""The torture: a real node under load, and all that befalls machines, checked after each round.

    python -m torture --rounds 20 --seed 7

`docs/reliability.md` says what is promised and what was tested.

    __main__   options, rounds, the summary          disk       the disk that faults are ordered on
    rounds     one round: load, faults, checks       layer/     what is preloaded into the processes
    faults     what may happen                       journal    what the layer writes down
    clients    who uploads, deletes, reads           power      a power cut: pages and names
    ledger     what they were told                   plants     bugs, to prove that checks find them
    checks     what must hold after a round          node       the processes of a node
"""
