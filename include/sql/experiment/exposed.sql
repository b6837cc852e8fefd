-- Users who count, each with the days that count: from exposure to the business date.
SELECT
    user_id,
    variant,
    exposed_on AS first_day,
    :as_of AS as_of,
    date_diff(:as_of, exposed_on) + 1 AS num_days
FROM exposures
WHERE experiment = :experiment AND exposed_on <= :as_of AND excluded IS NULL
