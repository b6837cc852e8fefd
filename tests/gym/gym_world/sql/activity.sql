-- One row per member and active day; num_raw_rows counts every raw row exactly once.
SELECT
    user_id,
    day,
    CAST(MAX(visited) AS DOUBLE) AS visited,
    CAST(MAX(took_class) AS DOUBLE) AS took_class,
    SUM(minutes) AS minutes,
    SUM(spend) AS spend,
    COUNT(*) AS num_raw_rows
FROM (
    SELECT
        user_id,
        day,
        1 AS visited,
        CASE WHEN is_class THEN 1 ELSE 0 END AS took_class,
        minutes,
        CAST(0 AS DOUBLE) AS spend
    FROM checkins
    UNION ALL
    SELECT user_id, day, 0, 0, CAST(0 AS DOUBLE), amount
    FROM purchases
) AS facts
WHERE day BETWEEN :first_day AND :last_day
GROUP BY user_id, day
