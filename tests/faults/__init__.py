"""Faults on a real broker and a real cluster, and what must hold afterwards: ./scripts/faults.

events at a steady pace ─ job on two TaskManagers ─ topic ─┬─ a reader that runs meanwhile
            └─ the engine-free function: what is due ──────┴─ a reader that begins afterwards
"""
