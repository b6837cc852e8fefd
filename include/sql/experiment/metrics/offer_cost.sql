-- What offers cost per user since exposure; the dearest user in a thousand counts as the next.
-- winsorize: 0.999
SELECT user_id, sum(cost) AS numerator
FROM user_days
GROUP BY user_id
