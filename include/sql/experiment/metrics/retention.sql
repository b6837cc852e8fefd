-- Of the users exposed more than a week ago, who was active within the last seven days.
SELECT
    user_id,
    max(CAST(active AND day > date_sub(as_of, 7) AND num_days > 7 AS INT)) AS numerator,
    max(CAST(num_days > 7 AS INT)) AS denominator
FROM user_days
GROUP BY user_id
