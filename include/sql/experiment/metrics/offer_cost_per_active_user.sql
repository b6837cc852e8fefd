-- What offers cost per user who was active at all since exposure.
SELECT user_id, sum(cost) AS numerator, max(CAST(active AS INT)) AS denominator
FROM user_days
GROUP BY user_id
