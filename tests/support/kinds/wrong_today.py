WRONG_TODAY: dict[str, str] = {}
