-- Per day and variant: users exposed by then, users active on the day, what their offers cost.
-- Every day from the start has a row, whether somebody came or not. Cost is added as an exact
-- decimal, so that the order in which Spark adds changes no bit.
WITH days AS (
    SELECT explode(sequence(:start, :as_of)) AS day
),

exposed AS (
    SELECT user_id, variant, exposed_on
    FROM exposures
    WHERE experiment = :experiment AND exposed_on <= :as_of
),

-- A handful of rows (days x variants), so that the join below on "by then" stays small.
joined AS (
    SELECT variant, exposed_on, count(*) AS num_users
    FROM exposed
    GROUP BY variant, exposed_on
),

done AS (
    SELECT user_id, day, IDENTIFIER(:active) AS active, IDENTIFIER(:cost) AS cost
    FROM activity
    WHERE day BETWEEN :start AND :as_of
),

measured AS (
    SELECT
        exposed.variant,
        done.day,
        count_if(done.active = 1) AS num_active,
        sum(CAST(done.cost AS DECIMAL(18, 6))) AS cost
    FROM done
    INNER JOIN exposed ON done.user_id = exposed.user_id AND done.day >= exposed.exposed_on
    GROUP BY exposed.variant, done.day
),

present AS (
    SELECT days.day, joined.variant, sum(if(joined.exposed_on <= days.day, num_users, 0)) AS num_users
    FROM days
    CROSS JOIN joined
    GROUP BY days.day, joined.variant
)

SELECT
    :experiment AS experiment,
    present.day,
    present.variant,
    present.num_users,
    coalesce(measured.num_active, 0) AS num_active,
    CAST(coalesce(measured.cost, 0) AS DOUBLE) AS cost
FROM present
LEFT JOIN measured ON present.day = measured.day AND present.variant = measured.variant
ORDER BY present.day, present.variant
