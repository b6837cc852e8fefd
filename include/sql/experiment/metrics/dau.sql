-- Share of the days since exposure on which a user was active: daily active users per user.
SELECT user_id, count_if(active) AS numerator, max(num_days) AS denominator
FROM user_days
GROUP BY user_id
