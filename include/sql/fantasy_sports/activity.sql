-- What a member did on a day. num_raw_rows counts every row of the three logs exactly once.
-- Runs on Spark and on DuckDB alike.
--
-- A member's line-ups of a day are numbered from 1, so that the largest number counts them.
WITH parts AS (
    SELECT
        user_id,
        day,
        1 AS num_sessions,
        minutes,
        0 AS num_contests,
        0 AS lineup,
        0 AS fee,
        0 AS bonus,
        0 AS winnings,
        0 AS num_deposits,
        0 AS deposits,
        0 AS withdrawals
    FROM sessions
    UNION ALL
    SELECT user_id, day, 0, 0, 1, lineup, fee, bonus, 0, 0, 0, 0
    FROM contest_entries
    UNION ALL
    SELECT
        user_id,
        day,
        0,
        0,
        0,
        0,
        0,
        0,
        CASE WHEN kind = 'winning' THEN amount ELSE 0 END,
        CASE WHEN kind = 'deposit' THEN 1 ELSE 0 END,
        CASE WHEN kind = 'deposit' THEN amount ELSE 0 END,
        CASE WHEN kind = 'withdrawal' THEN amount ELSE 0 END
    FROM wallet
)
SELECT
    user_id,
    day,
    CAST(MAX(CASE WHEN num_sessions > 0 THEN 1 ELSE 0 END) AS DOUBLE) AS active,
    CAST(MAX(num_contests) AS DOUBLE) AS joined,
    CAST(MAX(num_deposits) AS DOUBLE) AS deposited,
    CAST(SUM(num_sessions) AS DOUBLE) AS num_sessions,
    CAST(SUM(minutes) AS DOUBLE) AS session_minutes,
    CAST(SUM(num_contests) AS DOUBLE) AS num_contests,
    CAST(MAX(lineup) AS DOUBLE) AS num_lineups,
    CAST(SUM(fee) AS DOUBLE) AS entry_fees,
    CAST(SUM(bonus) AS DOUBLE) AS bonus,
    CAST(SUM(winnings) AS DOUBLE) AS winnings,
    CAST(SUM(num_deposits) AS DOUBLE) AS num_deposits,
    CAST(SUM(deposits) AS DOUBLE) AS deposits,
    CAST(SUM(withdrawals) AS DOUBLE) AS withdrawals,
    COUNT(*) AS num_raw_rows
FROM parts
WHERE day BETWEEN :first_day AND :last_day
GROUP BY user_id, day
