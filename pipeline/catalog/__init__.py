"""The catalog: its parts, the plan and the ledger beside them, its status and the proof that it is whole."""
